"""What a handler's signature and options say, as frozen data. What can't work is a SystemMistake with file and line here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict, get_args

import msgspec
from msgspec.structs import replace

from atoll.errors import AtollError, SystemMistake
from atoll.service import annotations as types
from atoll.service.arguments import (
    Argument,
    From,
    Place,
    declared_at,
    hints_of,
    of_operation,
    of_subscription,
    parameters,
    settle,
)
from atoll.service.options import check_options
from atoll.system.budgets import BUDGETS
from atoll.system.contract import BODY_LIMIT_BYTES, bytes_of, seconds_of
from atoll.system.rates import Rate

__all__ = [
    "BODY_LIMIT_BYTES",
    "MESSAGE_LIMIT_BYTES",
    "Operation",
    "Options",
    "SocketOptions",
    "Subscription",
]

IdempotencyKey = Literal["accepted", "required", "ignored"]
_SEGMENT = re.compile(r"^(?:\{[A-Za-z_][A-Za-z0-9_]*(?::path)?\}|[A-Za-z0-9._~!$&'()*+,;=:@-]+)$")
_EVENT_TYPE = re.compile(r"^[a-z][a-z0-9_-]*\.[a-z][a-z0-9_]*$")
_DURATION = re.compile(r"([0-9]{1,6})(s|min|h|d)")
_UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
MESSAGE_LIMIT_BYTES = 1 << 20


class Options(TypedDict, total=False):
    """What a decorator may say of an operation.

    `scope`: the token must carry it. `public`: no token is needed. `status`: of a success; 201 for POST, 204 when nothing
    is returned, else 200. `raises`: errors it declares. `timeout_s`: instead of the handler budget. `body_limit_bytes`:
    instead of 1 MiB. `rate_limit`: how often one client may ask it, "10/s", "600/min", "5/h"; the gateway answers 429 beyond
    it. `streaming`: the answer has no end, so the gateway must not time it. `id`: instead of the function's name. `tags`: for
    the API page. `idempotency_key`: what becomes of that header, see `repeats`; a POST or PATCH with a transaction accepts
    it unless this says otherwise, or its handler takes a Database too: what is done through that, no key covers. `cache`:
    how long the answer of a GET may be kept, see `caching`: "60s", "5min", "1h", "1d"; "0s" is kept but asked for every
    time. `repeatable`: done twice it is the same as done once, so the gateway may send a request again whose answer was
    lost, as it does with every GET. `try_timeout_s`: after so long it gives up such a try for another.
    """

    scope: str
    public: bool
    status: int
    raises: Sequence[type[AtollError]]
    timeout_s: float
    body_limit_bytes: int
    rate_limit: str
    streaming: bool
    id: str
    tags: Sequence[str]
    idempotency_key: IdempotencyKey
    cache: str
    repeatable: bool
    try_timeout_s: float


class SocketOptions(TypedDict, total=False):
    """What `websocket` may say: what `Options` says of the same names, and `message_limit_bytes`, of one message that is
    received, instead of 1 MiB. A larger one closes the socket (1009).
    """

    scope: str
    public: bool
    raises: Sequence[type[AtollError]]
    rate_limit: str
    id: str
    tags: Sequence[str]
    message_limit_bytes: int


class Operation(msgspec.Struct, frozen=True):
    """One verb on one path. `where` is file:line of its handler. `websocket`: the request becomes one, and
    `message_limit_bytes` is the largest message that it takes.
    """

    id: str
    method: str
    path: str
    handler: Callable[..., Any]
    arguments: tuple[Argument, ...]
    returns: Any
    status: int
    where: str
    scope: str | None = None
    public: bool = False
    raises: tuple[type[AtollError], ...] = ()
    timeout_s: float | None = None
    body_limit_bytes: int = BODY_LIMIT_BYTES
    rate_limit: Rate | None = None
    streaming: bool = False
    tags: tuple[str, ...] = ()
    idempotency_key: IdempotencyKey = "ignored"
    cache_s: int | None = None
    sees_caller: bool = False
    repeatable: bool = False
    try_timeout_s: float | None = None
    websocket: bool = False
    message_limit_bytes: int = MESSAGE_LIMIT_BYTES

    @classmethod
    def of_socket(
        cls, path: str, handler: Callable[..., Any], options: SocketOptions, names: Mapping[str, Any] | None = None
    ) -> Operation:
        """A GET that becomes a WebSocket. Raises SystemMistake."""
        check_options(options, SocketOptions, handler.__name__, declared_at(handler))
        shared: Any = {name: value for name, value in options.items() if name != "message_limit_bytes"}
        opening = cls.derive("GET", path, handler, shared, names)
        limit_bytes = options.get("message_limit_bytes", MESSAGE_LIMIT_BYTES)
        socket = replace(opening, returns=Any, status=101, websocket=True, message_limit_bytes=limit_bytes)
        _check_socket(socket, {one.source for one in socket.arguments})
        return socket

    @classmethod
    def derive(
        cls, method: str, path: str, handler: Callable[..., Any], options: Options, names: Mapping[str, Any] | None = None
    ) -> Operation:
        """`names` are the caller's locals, for annotations that only it knows. Raises SystemMistake."""
        where = declared_at(handler)
        check_options(options, Options, handler.__name__, where)
        hints = hints_of(handler, names)
        in_path = _parameters_of(path, where)
        arguments = tuple(
            of_operation(parameter, hints, Place(method, in_path, where)) for parameter in parameters(handler, where)
        )
        returns = hints.get("return", Any)
        operation = cls(
            id=options.get("id", handler.__name__),
            method=method,
            path=path,
            handler=handler,
            arguments=arguments,
            returns=returns,
            status=options.get("status") or _status(method, returns),
            where=where,
            scope=options.get("scope"),
            public=options.get("public", False),
            raises=tuple(options.get("raises", ())),
            timeout_s=options.get("timeout_s"),
            body_limit_bytes=options.get("body_limit_bytes", BODY_LIMIT_BYTES),
            rate_limit=_rate(options.get("rate_limit"), where),
            streaming=options.get("streaming", types.is_streaming(returns)),
            tags=tuple(options.get("tags", ())),
            idempotency_key=options.get("idempotency_key", "ignored"),
            cache_s=_seconds(options["cache"], where) if "cache" in options else None,
            sees_caller=any(one.source is From.PRINCIPAL for one in arguments),
            repeatable=options.get("repeatable", False),
            try_timeout_s=options.get("try_timeout_s"),
        )
        _check(operation, in_path)
        if "idempotency_key" not in options and not _unkept(operation) and operation.one(From.DATABASE) is None:
            return replace(operation, idempotency_key="accepted")
        return operation

    def one(self, source: From) -> Argument | None:
        """The first argument from `source`."""
        return next((argument for argument in self.arguments if argument.source is source), None)

    def names(self, source: From) -> tuple[str, ...]:
        """What is read of the headers (in lower case), cookies or query, a struct's fields one by one."""
        return tuple(name for one in self.arguments if one.source is source for name in _wires(one))

    def providing(self, provided: Mapping[Any, Any]) -> Operation:
        """The same once it is known what the service provides: a provided struct is no body.

        Raises SystemMistake when its answer can't be kept, because something provided sees the whole request.
        """
        settled = replace(self, arguments=tuple(settle(argument, provided) for argument in self.arguments))
        seen = {one.source for one in _seen(settled.arguments, provided)}
        _check_cache(settled, seen)
        _check_socket(settled, seen)
        return replace(settled, sees_caller=From.PRINCIPAL in seen)

    @property
    def private(self) -> bool:
        """Does its answer depend on who calls? A cookie or a credential in a header tells that too."""
        credentials = {"authorization", "x-api-key"}
        return (
            not self.public
            or self.sees_caller
            or self.one(From.COOKIE) is not None
            or not credentials.isdisjoint(self.names(From.HEADER))
        )


class Subscription(msgspec.Struct, frozen=True):
    """A handler of one type of event, `<publisher>.<name>`. `alone`: one event per transaction."""

    type: str
    handler: Callable[..., Any]
    arguments: tuple[Argument, ...]
    where: str
    alone: bool = False

    @property
    def source(self) -> str:
        return self.type.split(".")[0]

    @property
    def name(self) -> str:
        return self.type.split(".")[1]

    @property
    def event(self) -> Argument:
        """The argument that takes the event's data."""
        return next(argument for argument in self.arguments if argument.source is From.EVENT)

    @classmethod
    def derive(
        cls, type: str, handler: Callable[..., Any], alone: bool, names: Mapping[str, Any] | None = None
    ) -> Subscription:
        """Raises SystemMistake."""
        where = declared_at(handler)
        if not _EVENT_TYPE.match(type):
            raise SystemMistake(f"{type!r} is no event type", where=where, hint="<service>.<event>: inventory.stock_rejected")
        hints = hints_of(handler, names)
        arguments = tuple(
            of_subscription(position, parameter, hints, where) for position, parameter in enumerate(parameters(handler, where))
        )
        if not arguments or arguments[0].source is not From.EVENT:
            raise SystemMistake(
                f"{handler.__name__}: the first argument of an event handler is the event",
                where=where,
                hint=f"async def {handler.__name__}(event: YourViewOfIt, …)",
            )
        _check_thread(handler, arguments, where)
        return cls(type, handler, arguments, where, alone)

    def providing(self, provided: Mapping[Any, Any]) -> Subscription:
        return self


def _parameters_of(path: str, where: str) -> tuple[str, ...]:
    if not path.startswith("/"):
        raise SystemMistake(f"{path!r} must begin with a slash", where=where)
    segments = path[1:].split("/") if path != "/" else []
    for segment in segments:
        if not _SEGMENT.match(segment):
            raise SystemMistake(
                f"{path!r}: {segment!r} is no path segment",
                where=where,
                hint="a literal or one {parameter}; no slash at the end",
            )
    if any(segment.endswith(":path}") for segment in segments[:-1]):
        raise SystemMistake(f"{path!r}: only the last segment can take the rest of the path", where=where)
    names = tuple(segment[1:-1].removesuffix(":path") for segment in segments if segment.startswith("{"))
    if len(set(names)) < len(names):
        raise SystemMistake(f"{path!r} names a parameter twice", where=where)
    return names


def _check(operation: Operation, in_path: tuple[str, ...]) -> None:
    where, name = operation.where, operation.handler.__name__
    found = {argument.wire for argument in operation.arguments if argument.source is From.PATH}
    if missing := [one for one in in_path if one not in found]:
        raise SystemMistake(
            f"{name}: {{{missing[0]}}} stands in {operation.path} but not in the signature",
            where=where,
            hint=f"def {name}({missing[0]}: …)",
        )
    bodies = [one for one in operation.arguments if one.source in (From.BODY, From.FORM, From.FILE)]
    if bodies and operation.method == "GET":
        raise SystemMistake(
            f"{name}: a GET has no body, but {bodies[0].name!r} would come from one",
            where=where,
            hint="take query parameters: Annotated[T, Query()]",
        )
    if len([one for one in bodies if one.source is From.BODY]) > 1 or len({one.source is From.BODY for one in bodies}) > 1:
        raise SystemMistake(
            f"{name}: {', '.join(one.name for one in bodies)} would all come from one body",
            where=where,
            hint="put them into one struct",
        )
    _check_access(operation)
    _check_key(operation)
    _check_cache(operation, {one.source for one in operation.arguments})
    _check_numbers(operation)
    _check_tries(operation)
    _check_thread(operation.handler, operation.arguments, where)


def _wires(argument: Argument) -> tuple[str, ...]:
    names: tuple[str, ...] = (argument.wire,)
    if argument.whole and _is_struct(argument):
        names = tuple(one.encode_name for one in msgspec.structs.fields(types.bare(argument.type)))
    return tuple(name.replace("_", "-").lower() for name in names) if argument.source is From.HEADER else names


def _is_struct(argument: Argument) -> bool:
    kind = types.bare(argument.type)
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _takes_all(argument: Argument) -> bool:
    """A dict of all headers, or all cookies."""
    return argument.whole and argument.source in (From.HEADER, From.COOKIE) and not _is_struct(argument)


def _unkept(operation: Operation) -> str:
    """Why its answers can't be kept together with what they tell of; "" when they can."""
    if operation.method not in ("POST", "PATCH"):
        return f"a {operation.method} may be sent again as it is"
    if operation.one(From.TRANSACTION) is None:
        return "its handler takes no transaction to keep the answer in"
    if operation.streaming or types.is_file(operation.returns):
        return "a stream can't be kept"
    return ""


def _check_key(operation: Operation) -> None:
    where, name, wanted = operation.where, operation.handler.__name__, operation.idempotency_key
    if wanted not in get_args(IdempotencyKey):
        raise SystemMistake(
            f"{name}: idempotency_key={wanted!r}", where=where, hint=", ".join(map(repr, get_args(IdempotencyKey)))
        )
    if wanted != "ignored" and (why := _unkept(operation)):
        hint = f"async def {name}(…, tx: Transaction)" if "transaction" in why else "leave idempotency_key= out"
        raise SystemMistake(f"{name} can't promise an idempotency key: {why}", where=where, hint=hint)


def _seconds(text: str, where: str) -> int:
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise SystemMistake(f"cache={text!r}", where=where, hint='"60s", "5min", "1h" or "1d"; "0s" to be asked every time')
    return int(found[1]) * _UNITS_S[found[2]]


def _check_cache(operation: Operation, seen: set[From]) -> None:
    if operation.cache_s is None:
        return
    name = operation.handler.__name__
    if operation.method != "GET" or operation.status != 200:
        why, hint = "only a GET that answers 200 is", "leave cache= out"
    elif types.is_response(operation.returns):
        why, hint = "a Response says so itself", 'Response(…, headers={"cache-control": "max-age=60"})'
    elif From.REQUEST in seen:
        why = "with the whole Request in hand it could depend on anything"
        hint = "take what it needs as arguments: Header, Cookie, Query, Principal"
    elif one := next(filter(_takes_all, operation.arguments), None):
        why, hint = f"{one.name!r} takes every {one.source.value}", "a Struct with those that it needs"
    else:
        return
    raise SystemMistake(f"{name} can't be cached: {why}", where=operation.where, hint=hint)


def _seen(arguments: Sequence[Argument], provided: Mapping[Any, Any]) -> Iterator[Argument]:
    """The arguments of a handler and of all that is made for it."""
    waiting, asked = list(arguments), set()
    while waiting:
        one = waiting.pop()
        yield one
        if one.source is From.PROVIDED and one.type not in asked and (provider := provided.get(one.type)):
            asked.add(one.type)
            waiting += provider.arguments


def _check_access(operation: Operation) -> None:
    where, name = operation.where, operation.handler.__name__
    if operation.public and operation.scope:
        raise SystemMistake(f"{name}: it can't be public and need a scope", where=where)
    who = operation.one(From.PRINCIPAL)
    if who and operation.public and who.required:
        raise SystemMistake(f"{name}: a public operation may have no caller", where=where, hint=f"{who.name}: Principal | None")
    if operation.one(From.DELIVERY):
        raise SystemMistake(f"{name}: only an event handler has a Delivery", where=where)


def _check_socket(operation: Operation, seen: set[From]) -> None:
    """A socket may be open for days: a transaction can't be, and there is no body and no answer to a request."""
    where, name = operation.where, operation.handler.__name__
    if not operation.websocket:
        if From.SOCKET in seen:
            raise SystemMistake(
                f"{name}: a request has no WebSocket", where=where, hint=f'@service.websocket("{operation.path}")'
            )
        return
    if operation.one(From.SOCKET) is None:
        raise SystemMistake(f"{name} takes no WebSocket", where=where, hint=f"async def {name}(socket: WebSocket, …)")
    if not inspect.iscoroutinefunction(operation.handler):
        raise SystemMistake(f"{name}: a WebSocket is awaited", where=where, hint=f"async def {name}(…)")
    if From.TRANSACTION in seen:
        raise SystemMistake(
            f"{name}: a transaction can't be open as long as a WebSocket",
            where=where,
            hint="take a Database, and for each message: async with database.transaction() as tx",
        )
    if From.REQUEST in seen:
        raise SystemMistake(
            f"{name}: a WebSocket has no Request", where=where, hint="the WebSocket has its headers and its URL"
        )
    if operation.message_limit_bytes < 1:
        raise SystemMistake(f"{name}: message_limit_bytes={operation.message_limit_bytes}", where=where, hint="1 or more")


def _check_numbers(operation: Operation) -> None:
    """The same as for a contract that is written by hand."""
    said = {"timeout_s": operation.timeout_s, "body_limit_bytes": operation.body_limit_bytes}
    try:
        seconds_of(said, "timeout_s")
        bytes_of(said, "body_limit_bytes")
    except ValueError as error:
        hint = "without it, it is the default; what has no end is a stream"
        raise SystemMistake(f"{operation.handler.__name__}: {error}", where=operation.where, hint=hint) from None


def _check_tries(operation: Operation) -> None:
    """A try that may take as long as the whole operation would leave no time for another, if there may be another at all."""
    if operation.try_timeout_s is None:
        return
    if operation.method != "GET" and not operation.repeatable:
        raise SystemMistake(
            f"{operation.handler.__name__}: try_timeout_s= means nothing here: its requests are not sent again while one runs",
            where=operation.where,
            hint="repeatable=True, if done twice it is the same as done once; or leave try_timeout_s= out",
        )
    most = operation.timeout_s or BUDGETS.handler_s
    if not 0 < operation.try_timeout_s < most:
        raise SystemMistake(
            f"{operation.handler.__name__}: try_timeout_s={operation.try_timeout_s:g} leaves no time for a second try",
            where=operation.where,
            hint=f"more than 0 and less than the {most:g} s that the operation may take",
        )


def _check_thread(handler: Callable[..., Any], arguments: Sequence[Argument], where: str) -> None:
    """A plain function runs in a thread, where nothing of the event loop's can be awaited."""
    if inspect.iscoroutinefunction(handler):
        return
    for argument in arguments:
        if argument.source in (From.TRANSACTION, From.DATABASE):
            raise SystemMistake(
                f"{handler.__name__}: a plain function runs in a thread and can't await {argument.name!r}",
                where=where,
                hint=f"async def {handler.__name__}(…)",
            )


def _rate(text: str | None, where: str) -> Rate | None:
    if text is None:
        return None
    try:
        return Rate.parse(text)
    except ValueError as error:
        raise SystemMistake(f"rate_limit: {error}", where=where, hint='rate_limit="10/s"') from None


def _status(method: str, returns: Any) -> int:
    if returns is type(None) or returns is None:
        return 204
    return 201 if method == "POST" else 200
