"""The HTTP side of a service: an ASGI application made from its operations.

A request is routed, its token verified, its scope checked, its body read up to the limit, its input bound, its handler run
in one transaction, and its result encoded, all before that transaction commits; the answer is sent after the commit. What
raises on the way rolls back and becomes problem+json.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec

from atoll.delivery.faults import FAULTS
from atoll.errors import Bug, Malformed, Refused, TooLarge
from atoll.service import annotations as types
from atoll.service import context
from atoll.service.answers import ASGI, Answer, Receive, Scope, Send, answer_of, refuse, send_answer
from atoll.service.arguments import From
from atoll.service.binding import INJECTED, Binder
from atoll.service.caching import Answers, Cached
from atoll.service.callers import Verify, caller
from atoll.service.calls import Call
from atoll.service.handlers import in_thread
from atoll.service.open_calls import OpenCalls, StreamingCall
from atoll.service.operations import Operation
from atoll.service.problems import Problem, problem_of
from atoll.service.repeats import Claim, Repeats
from atoll.service.routes import Routes
from atoll.system.budgets import BUDGETS
from atoll.telemetry.metrics import Meter
from atoll.telemetry.spans import Parent

if TYPE_CHECKING:
    from atoll.service.injection import Injector
    from atoll.service.service import Service
    from atoll.service.sockets import SocketEndpoint
    from atoll.service.tracing import Tracing, _Request

__all__ = ["App", "build_app"]

_log = logging.getLogger("atoll.service")
_FORMS = (b"application/x-www-form-urlencoded", b"multipart/form-data")
_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")
_NEEDS_UPGRADE = Problem(
    426, "upgrade_required", "this path takes WebSockets", headers=((b"upgrade", b"websocket"), (b"connection", b"upgrade"))
)


def build_app(service: Service, *, database: Any, verify: Verify, injector: Injector, tracing: Tracing | None = None) -> App:
    """The ASGI application of `service`. `database` is None for a service without one."""
    kit = _Kit(database, verify, injector)
    operations = service.operations
    endpoints = [_Endpoint(one, kit) for one in operations if not one.websocket]
    return App(endpoints, _sockets(operations, kit), _mounted(service, kit), kit, tracing)


class App:
    """Dispatches by verb and path. What no operation answers goes to the application that the service mounts, if any.

    `answers` are those that it keeps, `calls` those that are open; `meters` count by operation.
    """

    def __init__(
        self,
        endpoints: list[_Endpoint],
        sockets: list[SocketEndpoint],
        mounted: ASGI | None,
        kit: _Kit,
        tracing: Tracing | None = None,
    ) -> None:
        self.answers = kit.answers
        self.calls = kit.calls
        self._routes: Routes[_Endpoint] = Routes((one.operation.method, one.operation.path, one) for one in endpoints)
        self._sockets: Routes[SocketEndpoint] = Routes(("GET", one.operation.path, one) for one in sockets)
        self._mounted = mounted
        self._tracing = tracing
        meters = {one.operation.id: one.meter for one in endpoints}
        self.meters = {**meters, **{one.operation.id: one.meter for one in sockets}}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._other(scope, receive, send)
            return
        trace = _trace(scope["headers"])
        token = context.enter(trace)
        try:
            if scope["type"] == "websocket":
                await self._socket(scope, receive, send)
            elif self._tracing is not None and (parent := Parent.of(trace.parent)):
                await self._traced(self._tracing.request(parent, scope, send), scope, receive)
            else:
                await self._request(scope, receive, send)
        finally:
            context.leave(token)

    async def _traced(self, span: _Request, scope: Scope, receive: Receive) -> None:
        try:
            await self._request(scope, receive, span.send)
        finally:
            verbs, _ = self._routes.find(scope["path"], scope.get("raw_path")) or ({}, ())
            endpoint = verbs.get(scope["method"]) or (verbs.get("GET") if scope["method"] == "HEAD" else None)
            span.end(endpoint.operation if endpoint else None)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        verbs, path = self._routes.find(scope["path"], scope.get("raw_path")) or ({}, ())
        method = scope["method"]
        endpoint = verbs.get(method) or (verbs.get("GET") if method == "HEAD" else None)
        if endpoint is not None:
            await endpoint(Call(scope, receive, path), send)
        elif method in ("GET", "HEAD") and self._sockets.find(scope["path"], scope.get("raw_path")) is not None:
            await refuse(scope, send, _NEEDS_UPGRADE)
        elif self._mounted is not None:
            await self._mounted(scope, receive, send)
        else:
            await refuse(scope, send, _wrong_verb(method, verbs) if verbs else _nothing(scope))

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._sockets.find(scope["path"], scope.get("raw_path"))
        if found is not None:
            verbs, path = found
            await verbs["GET"](Call(scope, receive, path), send)
        elif self._mounted is not None:
            await self._mounted(scope, receive, send)
        else:
            await refuse(scope, send, _nothing(scope))

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._mounted is not None:
            await self._mounted(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    """The runtime starts and stops what there is; a server that asks is told yes."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


class _Kit:
    """What all operations of one running service share."""

    __slots__ = ("answers", "calls", "database", "encode", "in_hand", "injector", "verify")

    def __init__(self, database: Any, verify: Verify, injector: Injector) -> None:
        self.database = database
        self.verify = verify
        self.injector = injector
        self.in_hand: set[str] = set()
        self.answers = Answers()
        self.calls = OpenCalls()
        self.encode = msgspec.json.Encoder(enc_hook=_encode_other).encode


class _Endpoint:
    """One operation, ready to run."""

    def __init__(self, operation: Operation, kit: _Kit) -> None:
        self._operation = operation
        self._kit = kit
        self._bind = Binder(operation)
        self._injected = tuple(one for one in operation.arguments if one.source in INJECTED)
        self._handler = operation.handler
        self._is_async = inspect.iscoroutinefunction(operation.handler)
        self._timeout_s = operation.timeout_s or BUDGETS.handler_s
        self._has_json = operation.one(From.BODY) is not None
        self._has_form = operation.one(From.FORM) is not None or operation.one(From.FILE) is not None
        self._has_request = operation.one(From.REQUEST) is not None
        self._begin = self._transaction(kit.database) if operation.one(From.TRANSACTION) else None
        self._repeats = self._repeated(kit) if operation.idempotency_key != "ignored" else None
        self._cached = Cached(operation, kit.answers) if operation.cache_s is not None else None
        self._headers = _headers_of(operation)
        self.meter = Meter()

    @property
    def operation(self) -> Operation:
        return self._operation

    def _repeated(self, kit: _Kit) -> Repeats:
        return Repeats(self._operation, kit.database.journal, kit.in_hand)

    def _transaction(self, database: Any) -> Callable[[], AbstractAsyncContextManager[Any]]:
        if database is None:
            raise Bug(f"{self._operation.id} asks for a transaction, but there is no database")
        begin: Callable[[], AbstractAsyncContextManager[Any]]
        begin = database.reader if self._operation.method == "GET" else database.transaction
        return begin

    async def __call__(self, call: Call, send: Send) -> None:
        started = perf_counter()
        try:
            answer = await self._answer(call)
        except Exception as error:
            answer = answer_of(problem_of(error))
        except asyncio.CancelledError:
            if not self._kit.calls.ending:
                raise
            answer = answer_of(problem_of(_cut_off(self._operation)))
        self.meter.count(answer.status or getattr(answer.response, "status_code", 200), perf_counter() - started)
        if answer.response is not None:
            try:
                await self._respond(call, answer.response, _unsplit(send))
            except _SplitHeader as error:
                await refuse(call.scope, send, problem_of(error))
        else:
            await send_answer(call.scope, send, answer)

    async def _respond(self, call: Call, response: ASGI, send: Send) -> None:
        if self._operation.streaming:
            await self._kit.calls.stream(call.principal, StreamingCall(response, call.scope, call.receive, send, always=True))
        else:
            await response(call.scope, call.receive, send)

    async def _answer(self, call: Call) -> Answer:
        call.principal = caller(self._operation, call.scope, self._kit.verify)
        claim = self._repeats.claim(call) if self._repeats is not None else None
        limit = asyncio.timeout(self._timeout_s)
        reading = True
        try:
            async with limit:
                if self._has_json or self._has_form:
                    call.body = await _read_body(call, self._operation.body_limit_bytes)
                elif claim is not None:
                    call.body = await _read_body(call, self._operation.body_limit_bytes)
                    call.receive = _again(call.body)
                elif self._has_request:
                    call.receive = _limited(call.receive, self._operation.body_limit_bytes)
                if self._has_form:
                    call.form = await _read_form(call)
                reading = False
                if self._cached is not None:
                    return await self._cached.answer(call, lambda: self._run(call, limit, None))
                return await self._run(call, limit, claim)
        except TimeoutError:
            if not limit.expired():
                raise
            raise _too_late(self._timeout_s, reading) from None

    async def _run(self, call: Call, limit: asyncio.Timeout, claim: Claim | None) -> Answer:
        """The answer is encoded before the commit: what can't be encoded must not have changed anything.

        A commit is not interrupted: nobody could tell whether it happened.
        """
        values = self._bind(call)
        try:
            if self._begin is None:
                answer = self._encode(await self._handle(call, values))
            elif claim is not None:
                answer = await self._run_once(call, values, limit, claim)
            else:
                async with self._begin() as call.transaction:
                    answer = self._encode(await self._handle(call, values))
                    limit.reschedule(None)
        except BaseException as error:
            await call.close(error)
            raise
        await call.close()
        return answer

    async def _run_once(self, call: Call, values: dict[str, Any], limit: asyncio.Timeout, claim: Claim) -> Answer:
        """The same for a request that may be sent again."""
        assert self._begin is not None
        with claim.in_hand():
            async with self._begin() as call.transaction:
                kept = await claim.begin(call.transaction)
                if kept is not None:
                    return kept
                answer = self._encode(await self._handle(call, values))
                await claim.keep(call.transaction, answer)
                limit.reschedule(None)
        FAULTS.reached("answer.committed")
        return answer

    async def _handle(self, call: Call, values: dict[str, Any]) -> Any:
        await self._kit.injector.fill(values, self._injected, call)
        if self._is_async:
            return await self._handler(**values)
        return await in_thread(self._handler, values)

    def _encode(self, result: Any) -> Answer:
        if callable(result):  # a Starlette Response, or any ASGI application
            return Answer(0, b"", [], result)
        status = self._operation.status
        if status == 204:
            return Answer(204, b"", [])
        return Answer(status, self._kit.encode(result), self._headers)


class _SplitHeader(Bug):
    """Nothing of the response was sent."""


def _unsplit(send: Send) -> Send:
    """A line break in a header of a handler's own response would make two of it (RFC 9110 §5.5)."""

    async def checked(message: MutableMapping[str, Any]) -> None:
        for name, value in message.get("headers", ()):
            if b"\n" in value or b"\r" in value or b"\n" in name or b"\r" in name:
                raise _SplitHeader(f"the header {name[:50]!r} of a response has a line break in it")
        await send(message)

    return checked


def _headers_of(operation: Operation) -> list[tuple[bytes, bytes]]:
    """What a success is sent with. What depends on who calls stays nowhere on its way unless `cache=` says that it may."""
    headers = [] if operation.status == 204 else [_JSON]
    if operation.method == "GET" and operation.private and operation.cache_s is None:
        headers.append(_NO_STORE)
    return headers


def _nothing(scope: Scope) -> Problem:
    return Problem(404, "not_found", f"there is no {scope['path'][:200]} here")


def _wrong_verb(method: str, verbs: Mapping[str, Any]) -> Problem:
    allowed = sorted({*verbs, *(["HEAD"] if "GET" in verbs else [])})
    allow = ", ".join(allowed)
    return Problem(
        405, "method_not_allowed", f"{method} is not possible here, only {allow}", headers=((b"allow", allow.encode()),)
    )


def _too_late(timeout_s: float, reading: bool) -> Refused:
    if reading:
        return Refused(408, "body_timeout", f"the body did not arrive within {timeout_s:g} s")
    _log.error("answered 504: the handler took longer than %g s", timeout_s)
    return Refused(504, "handler_timeout", f"the answer was not ready within {timeout_s:g} s; nothing of it was committed")


def _cut_off(operation: Operation) -> Refused:
    _log.error("answered 503: %s was still running when the service had to stop", operation.id)
    detail = "the service was stopped before the answer was ready; nothing of it was committed"
    return Refused(503, "stopped", detail, hint="send the request again")


def _trace(headers: list[tuple[bytes, bytes]]) -> context.Trace:
    request_id = parent = ""
    for name, value in headers:
        if name == b"x-request-id":
            request_id = value.decode("latin-1")
        elif name == b"traceparent":
            parent = value.decode("latin-1")
    return context.Trace(request_id, parent)


async def _read_body(call: Call, limit_bytes: int) -> bytes:
    for name, value in call.scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit_bytes:
            raise _too_large(limit_bytes)
    message = await call.receive()
    if not message.get("more_body", False) and message["type"] == "http.request":
        body: bytes = message.get("body", b"")
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
        return body
    return await _read_rest(call, message, limit_bytes)


async def _read_rest(call: Call, message: MutableMapping[str, Any], limit_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise Malformed("the connection ended before the body did")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        if not message.get("more_body", False):
            return b"".join(pieces)
        message = await call.receive()


def _again(body: bytes) -> Receive:
    """For handlers that read the body themselves after it was read here."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> MutableMapping[str, Any]:
        return pending.pop() if pending else {"type": "http.disconnect"}

    return receive


def _limited(receive: Receive, limit_bytes: int) -> Receive:
    """For handlers that read the body themselves."""
    size = 0

    async def limited() -> MutableMapping[str, Any]:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        return message

    return limited


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit_bytes:,} bytes")


async def _read_form(call: Call) -> Any:
    media = next((value for name, value in call.scope["headers"] if name == b"content-type"), b"")
    if media.split(b";", 1)[0].strip().lower() not in _FORMS:
        raise Refused(
            415,
            "unsupported_media_type",
            "this operation takes a form, application/x-www-form-urlencoded or multipart/form-data",
        )
    from starlette.exceptions import HTTPException
    from starlette.formparsers import MultiPartException

    try:
        return await call.request().form()
    except (HTTPException, MultiPartException) as error:
        raise Malformed(f"the form can't be read: {getattr(error, 'detail', None) or error}") from None


def _encode_other(value: Any) -> Any:
    if types.is_pydantic(type(value)):
        return value.model_dump(mode="json")
    raise TypeError(f"a {type(value).__qualname__} can't be encoded as JSON")


def _mounted(service: Service, kit: _Kit) -> ASGI | None:
    """The service's own application, behind the token check unless it checks its callers itself."""
    if service.app is None:
        return None
    from atoll.service.mounting import as_asgi, guarded, is_asgi

    app: ASGI = as_asgi(service.app)
    return app if service.app_public else guarded(app, kit.verify, kit.calls if is_asgi(service.app) else None)


def _sockets(operations: Iterable[Operation], kit: _Kit) -> list[SocketEndpoint]:
    """Imported only where there are any."""
    found = [one for one in operations if one.websocket]
    if not found:
        return []
    from atoll.service.sockets import SocketEndpoint

    return [SocketEndpoint(one, kit) for one in found]
