"""What the gateway would do with a request, step by step in the order in which it does it, without sending anything. Pure.

The route table is the same that Envoy was given (`translate`), matched by `matching`; tokens are judged with the keys that it
knows; what Envoy says of replicas is an argument.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from atoll.errors import AtollError, Outage
from atoll.gateway.ir import Document, Gateway, Limits, MethodList, MethodRefusal, Route, Sample, TokenRule
from atoll.gateway.logged import Left
from atoll.gateway.matching import Fallback, Match, NotFound, matched, normalized
from atoll.gateway.paths import Path
from atoll.gateway.weighing import meets
from atoll.tokens.base64url import decoded
from atoll.tokens.claims import Claims
from atoll.tokens.providers import Providers
from atoll.tokens.verify import Verifier

__all__ = ["Explanation", "Question", "Step", "explain"]

Health = Mapping[tuple[str, str], str]

_FAULT = re.compile(r"^\S+: (?P<method>[A-Z]+) (?P<path>/\S*) has no route: ")


@dataclass(frozen=True, slots=True)
class Question:
    """A request that is not made. `health` is what Envoy says of endpoints by (cluster, address); None: it is not asked.
    `left` knows what was left of a rate limit when an operation was last asked by a subject.
    """

    method: str
    path: str
    token: str | None = None
    now: float = 0.0
    health: Health | None = None
    left: Callable[[str, str], Left | None] = lambda _operation, _subject: None


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the gateway looks at. Not `passed`: here the request ends, or for a canary's or the others' share of
    clients. `facts` are for programs.
    """

    what: str
    passed: bool
    says: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explanation:
    """`status` is what the gateway would answer itself; None: the service answers, some clients at least. Steps end where the
    request does.
    """

    method: str
    path: str
    status: int | None
    steps: tuple[Step, ...]


class _Ended(Exception):
    """The gateway answers here."""

    def __init__(self, status: int, step: Step) -> None:
        super().__init__(status)
        self.status = status
        self.step = step


def explain(gateway: Gateway, question: Question) -> Explanation:
    """Every step up to the one that ends it."""
    steps: list[Step] = []
    try:
        for step in _steps(gateway, question):
            steps.append(step)
    except _Ended as ended:
        return Explanation(question.method, question.path, ended.status, (*steps, ended.step))
    return Explanation(question.method, question.path, None, tuple(steps))


def _steps(gateway: Gateway, question: Question) -> Iterator[Step]:
    path = normalized(question.path)
    if path is None:
        raise _Ended(
            400, Step("request", False, "this is no path that the gateway takes: it refuses %2F, %5C, %00, # and spaces")
        )
    if path != question.path.partition("?")[0]:
        yield Step("request", True, f"the path is read as {path}", {"path": path})
    found = matched(gateway, question.method, path)
    yield _route(gateway, found, question.method, path)
    if isinstance(found, Document):
        raise _Ended(200, Step("answer", True, "the gateway answers this itself, from memory"))
    if isinstance(found, Route):
        claims = yield from _allowed(gateway, found, question)
        yield _limits(gateway.limits, found, claims, question)
        yield from _replicas(gateway, _shares(gateway, found, claims), question.health)
        yield from _caching(found)
        yield from _mirrors(gateway, found.sample, question.method, path)
    elif isinstance(found, Fallback):
        yield from _replicas(gateway, [_Share(found.cluster)], question.health)
        yield from _mirrors(gateway, gateway.fallback_sample, question.method, path)


# the route


def _route(gateway: Gateway, found: Match, method: str, path: str) -> Step:
    match found:
        case Route():
            facts = {"name": found.name, "service": found.service, "path": str(found.path), "cluster": found.cluster}
            says = f"{found.name}: {method} {found.path}{_split(found)}"
            canary = asdict(found.canary) if found.canary else None
            return Step("route", True, says, {**facts, "canary": canary, "timeout_s": found.timeout_s})
        case Document(path=own):
            return Step("route", True, f"{own} is the gateway's own", {"name": f"gateway{own}"})
        case Fallback(cluster=cluster):
            says = f"no service owns this path, so {cluster} gets it, the fallback; tokens are its own business"
            return Step("route", True, says, {"name": f"{cluster}.fallback", "service": cluster, "cluster": cluster})
        case MethodList(path=template, allow=allow):
            says = f"the gateway answers OPTIONS itself: {template} takes {', '.join(allow)}"
            raise _Ended(204, Step("route", True, says, {"path": str(template), "allow": list(allow)}))
        case MethodRefusal(path=template, allow=allow):
            says = f"{template} takes {', '.join(allow)}, not {method}"
            raise _Ended(405, Step("route", False, says, {"path": str(template), "allow": list(allow)}))
        case NotFound():
            raise _Ended(404, _nowhere(gateway, method, path))


def _split(route: Route) -> str:
    said = [f"{percent} of a hundred clients by {name}" for name, percent in route.shares]
    return f", answered for {' and '.join(said)}" if route.canary else ""


def _nowhere(gateway: Gateway, method: str, path: str) -> Step:
    """Why there is no route: whose path it would be, what was left out, what is there that looks like it."""
    owner = next((prefix for prefix in gateway.owned if Path(path).under(prefix)), "")
    says = ["no operation has this path"]
    if owner == "/health":
        says = ["health checks are between the gateway and replicas, and never routed"]
    elif owner:
        says.append(f"it would belong to the service with the prefix {owner}")
    left_out = [fault for fault in gateway.faults if _is_about(fault, path)]
    nearest = _nearest(gateway, path)
    says += left_out
    if nearest:
        says.append(f"nearest: {', '.join(nearest)}")
    facts = {"owner": owner or None, "nearest": nearest, "faults": left_out}
    return Step("route", False, "; ".join(says), facts)


def _is_about(fault: str, path: str) -> bool:
    found = _FAULT.match(fault)
    return found is not None and Path(found["path"]).matches(path)


def _nearest(gateway: Gateway, path: str) -> list[str]:
    templates = {str(entry.path): entry for entry in gateway.routes if isinstance(entry, Route)}
    return difflib.get_close_matches(path, templates, n=3, cutoff=0.5)


# token and scope


def _allowed(gateway: Gateway, route: Route, question: Question) -> Generator[Step, None, Claims | None]:
    """Gives whose token it is, None where nobody's is needed."""
    if not route.token.required:
        yield Step("token", True, "none is needed: the operation is public", {"public": True})
        return None
    claims = _claims(gateway, question)
    if claims.sid in gateway.ended_sessions:
        ended = {**_facts(claims), "code": "token_revoked"}
        raise _Ended(
            401, Step("token", False, f"the token is good, but the session {claims.sid} of {claims.sub} was ended", ended)
        )
    yield Step("token", True, _good(claims, question.now), _facts(claims))
    yield from _scope(route.token, claims)
    return claims


def _claims(gateway: Gateway, question: Question) -> Claims:
    issuer = gateway.issuer
    if not question.token:
        instead = f" (or an API key in {gateway.api_keys.header})" if gateway.api_keys else ""
        raise _Ended(401, Step("token", False, f"one is needed{instead}, and there is none", {"code": "token_missing"}))
    try:
        verifier = Verifier(issuer.url, issuer.audience, issuer.keys)
        verifier.trust(Providers(gateway.providers))
        return verifier.verify(question.token, question.now)
    except Outage as outage:
        raise _Ended(401, Step("token", False, outage.detail, {"code": outage.code})) from None
    except AtollError as refused:
        facts = _facts(_unverified(question.token))
        raise _Ended(401, Step("token", False, _bad(refused, facts, question.now), {**facts, "code": refused.code})) from None


def _bad(refused: AtollError, facts: Mapping[str, Any], now: float) -> str:
    if refused.code != "token_expired" or "exp" not in facts:
        return refused.detail
    return f"the token has expired, {_span(now - facts['exp'])} ago ({_clock(facts['exp'])})"


def _good(claims: Claims, now: float) -> str:
    until = f"good for {_span(claims.exp - now)} more (until {_clock(claims.exp)})"
    return f"{claims.sub}, {until}, scopes: {claims.scope or 'none'}"


def _facts(claims: Claims | None) -> dict[str, Any]:
    return {} if claims is None else {"subject": claims.sub, "scope": claims.scope, "exp": claims.exp, "session": claims.sid}


def _unverified(token: str) -> Claims | None:
    """What a token that is refused says of itself."""
    with suppress(ValueError, IndexError, RecursionError, msgspec.MsgspecError):
        return msgspec.json.decode(decoded(token.split(".")[1]), type=Claims)
    return None


def _scope(rule: TokenRule, claims: Claims) -> Iterator[Step]:
    if rule.scope is None:
        yield Step("scope", True, "any token will do", {"needed": None})
        return
    facts = {"needed": rule.scope, "has": sorted(claims.scopes)}
    if rule.scope not in claims.scopes:
        raise _Ended(403, Step("scope", False, f"the token lacks {rule.scope}", {**facts, "missing": rule.scope}))
    yield Step("scope", True, f"the token has {rule.scope}", facts)


# rates


def _limits(limits: Limits, route: Route, claims: Claims | None, question: Question) -> Step:
    who = "address" if claims is None else "API key" if claims.atoll_key else "subject"
    rates = {
        f"of this operation for each {who}": route.rate_limit,
        f"of all operations for each {who}": limits.client,
        "of anything for each address": limits.address,
    }
    said = [f"{rate} {what}" for what, rate in rates.items() if rate]
    shared = f", shared by {limits.gateways} gateways" if said and limits.gateways > 1 else ""
    # Of an API key the log does not say which.
    left = question.left(route.name, claims.sub) if said and claims and not claims.atoll_key else None
    declared = {"operation": route.rate_limit, "client": limits.client, "address": limits.address}
    facts: dict[str, Any] = {name: str(rate) if rate else None for name, rate in declared.items()}
    whose = (claims.atoll_key or claims.sub) if claims else None
    facts = {**facts, "gateways": limits.gateways, "counted_for": whose, "left": asdict(left) if left else None}
    told = f"{shared}; {_left(left, question.now)}" if said else ""
    return Step("limits", True, (" and ".join(said) or "none") + told, facts)


def _left(left: Left | None, now: float) -> str:
    """Envoy keeps its buckets to itself, but for the headers of answers: the state is that of the last one."""
    if left is None:
        return "what is left stands in RateLimit-Remaining of each answer"
    if left.time + left.reset_s <= now:
        return f"all {left.limit} are left again, {_span(now - left.time)} after the last request"
    then = _span(now - left.time)
    return f"{left.remaining} of {left.limit} were left {then} ago, after the last request, and all {left.reset_s} s after that"


# replicas


@dataclass(frozen=True, slots=True)
class _Share:
    """A cluster that may answer, and for whom: so many of a hundred clients, or the one who asks."""

    cluster: str
    percent: int = 100
    subject: str = ""

    @property
    def who(self) -> str:
        whose = f", {self.subject}'s" if self.subject else f" for {self.percent} of a hundred clients"
        return self.cluster + (whose if self.subject or self.percent < 100 else "")


def _shares(gateway: Gateway, route: Route, claims: Claims | None) -> list[_Share]:
    """Where a canary has its share, a token of ours decides by its subject. Other clients are told apart by their addresses."""
    if route.canary and claims and claims.iss == gateway.issuer.url:
        return [_Share(route.canary.cluster if meets(route.canary, claims.sub) else route.cluster, subject=claims.sub)]
    return [_Share(name, percent) for name, percent in route.shares if percent]


def _replicas(gateway: Gateway, shares: Sequence[_Share], health: Health | None) -> Iterator[Step]:
    """The request ends here when nobody's share has a replica that may answer."""
    *others, last = [_of_cluster(gateway, share, health) for share in shares]
    yield from others
    if not any(step.passed for step in (*others, last)):
        raise _Ended(503, last)
    yield last


def _of_cluster(gateway: Gateway, share: _Share, health: Health | None) -> Step:
    """Which one is picked is decided by their load at that moment: the one with fewer requests in flight of two."""
    name, who = share.cluster, share.who
    cluster = next(one for one in gateway.clusters if one.name == name)
    said = {str(one): "not asked" if health is None else health.get((name, str(one)), "unknown") for one in cluster.endpoints}
    replicas = [{"address": address, "health": state} for address, state in said.items()]
    facts = {"cluster": name, "percent": share.percent, "concurrency": cluster.concurrency, "replicas": replicas}
    most = f", {cluster.concurrency} requests at a time" if cluster.concurrency else ""
    shown = ", ".join(f"{address} {state}" for address, state in said.items())
    if not said:
        return Step("replicas", False, f"{who} has none: nobody announced one", facts)
    panic = cluster.failures.panic_threshold_percent
    if health is not None and "healthy" not in said.values() and panic:
        return Step("replicas", True, f"{who} has no healthy one, so all are tried (panic threshold {panic} %): {shown}", facts)
    if health is not None and "healthy" not in said.values():
        return Step("replicas", False, f"{who} has no healthy one: {shown}", facts)
    return Step("replicas", True, f"{who}: {shown}{most}", facts)


# what becomes of the answer


def _caching(route: Route) -> Iterator[Step]:
    """What clients are told of keeping it."""
    if route.cache:
        says = f"a good answer says {route.cache}; the gateway keeps none, the service may"
        yield Step("caching", True, says, {"cache_control": route.cache})


def _mirrors(gateway: Gateway, samples: Sequence[Sample], method: str, path: str) -> Iterator[Step]:
    """Whom else a share of such requests is sent to."""
    seconds = {mirror.name: mirror.second for mirror in gateway.mirrors}
    for one in samples:
        if one.takes(method, path):
            says = (
                f"{100 * one.share:g} % of these requests are sent to {seconds[one.mirror]} too, whose answers no client gets"
            )
            facts = {"mirror": one.mirror, "second": seconds[one.mirror], "share": one.share}
            yield Step("mirror", True, f"{one.mirror}: {says}", facts)


# for people


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _clock(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
