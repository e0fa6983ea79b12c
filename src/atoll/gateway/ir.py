"""What the gateway does, as frozen data that knows neither Envoy nor the bus. `translate` makes it, `xds` renders it."""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.gateway.paths import Path
from atoll.system.contract import BODY_LIMIT_BYTES, Protocol
from atoll.system.failures import USUAL, FailureDetection
from atoll.system.rates import Rate
from atoll.tokens.keys import KeySet
from atoll.tokens.providers import Provider

__all__ = [
    "ON_ONE_MACHINE",
    "PUBLIC",
    "ApiKeys",
    "Border",
    "Canary",
    "Cluster",
    "Cors",
    "Document",
    "Endpoint",
    "Entry",
    "Gateway",
    "Issuer",
    "Limits",
    "Listener",
    "MethodList",
    "MethodRefusal",
    "Mirror",
    "Overload",
    "Proxies",
    "Route",
    "Sample",
    "Tls",
    "TokenRule",
    "Tracing",
    "Upstream",
]


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One replica's socket. With `tls` both ends prove who they are: it shows a certificate for its service's name. One that is
    `fresh` gets a small share of what the others get.
    """

    host: str
    port: int
    tls: bool = False
    fresh: bool = False

    @classmethod
    def parse(cls, address: str) -> Endpoint:
        """From `127.0.0.1:2100` or `[::1]:2100`. Raises ValueError."""
        host, colon, port = address.rpartition(":")
        if not colon or not host or not 0 < int(port) < 65_536:
            raise ValueError(f"{address!r} is not host:port")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Replicas that can stand for each other. `name` is the service's, or `orders@<digest>+…` while contracts differ.

    Beyond `concurrency` requests in flight there is a 503 at once.
    """

    name: str
    service: str
    endpoints: tuple[Endpoint, ...]
    failures: FailureDetection = USUAL
    concurrency: int | None = None
    protocol: Protocol = "http1"


@dataclass(frozen=True, slots=True)
class TokenRule:
    """What a request must show. Not `required` is public; with `scope`, the token's scopes must hold it."""

    required: bool = True
    scope: str | None = None


PUBLIC = TokenRule(required=False)


@dataclass(frozen=True, slots=True)
class Canary:
    """The replicas that try another version, and how many of a hundred clients they get: always the same ones."""

    cluster: str
    percent: int


@dataclass(frozen=True, slots=True)
class Mirror:
    """Clients get the answers of `primary`; `second`, whom no client reaches, is asked the same, and `atoll mirror` shows how
    its answers differ. What `ignore` names is not compared.
    """

    name: str
    primary: str
    second: str
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """This `share` of a route's requests goes to a mirror too. Of these `methods`, and with `prefixes` or `templates` only
    where one of them matches the path.
    """

    mirror: str
    share: float
    methods: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    templates: tuple[Path, ...] = ()

    def takes(self, method: str, path: str) -> bool:
        """Whether such a request may be among it."""
        if method not in self.methods:
            return False
        within = any(Path(path).under(prefix) for prefix in self.prefixes) or any(one.matches(path) for one in self.templates)
        return within or not (self.prefixes or self.templates)


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `timeout_s` None never times out (streaming); `repeatable` may be tried again after it was sent, and
    is after `try_timeout_s` without an answer; any is that did not reach a replica, each up to `retries` times. With `header`,
    only requests that carry it take this route.

    `rate_limit` is each client's: the token's subject, or the address where no token is needed. A body is at most
    `body_limit_bytes`; `whole_body`: it is sent on when all of it is here.

    `websocket`: it may be upgraded to one, and its token may stand among the protocols too, because a page can set no header.
    A `sample` of what it answers is compared with a mirror's answers. `cache` is what the service says of keeping its answers:
    for who looks, since the gateway keeps none and passes what comes.
    """

    name: str
    service: str
    path: Path
    methods: tuple[str, ...]
    cluster: str
    token: TokenRule
    timeout_s: float | None
    repeatable: bool
    try_timeout_s: float | None = None
    header: str | None = None
    rate_limit: Rate | None = None
    body_limit_bytes: int = BODY_LIMIT_BYTES
    whole_body: bool = False
    websocket: bool = False
    canary: Canary | None = None
    sample: tuple[Sample, ...] = ()
    cache: str = ""
    retries: int = USUAL.retries.count

    @property
    def shares(self) -> tuple[tuple[str, int], ...]:
        """The clusters that answer, each with how many of a hundred clients meet it. The canary's part begins at zero."""
        if self.canary is None:
            return ((self.cluster, 100),)
        return (self.canary.cluster, self.canary.percent), (self.cluster, 100 - self.canary.percent)


@dataclass(frozen=True, slots=True)
class MethodRefusal:
    """A path that exists, asked with another method: 405 with `Allow`."""

    path: Path
    allow: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MethodList:
    """A path that is asked with OPTIONS: 204 with `Allow`, or what a preflight asks for. `preflight`: that one alone."""

    path: Path
    allow: tuple[str, ...]
    preflight: bool = False


@dataclass(frozen=True, slots=True)
class Border:
    """Whatever is below this prefix and has not been matched before it is nobody's: 404."""

    prefix: str


Entry = Route | MethodList | MethodRefusal | Border


@dataclass(frozen=True, slots=True)
class Cors:
    """Which pages of other origins may call. `headers` are those that they may send, `exposed` those that they may read."""

    origins: tuple[str, ...]
    credentials: bool
    max_age_s: int
    headers: tuple[str, ...]
    exposed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A page that the gateway answers itself, from memory. `headers` go with it."""

    path: str
    media_type: str
    body: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens are accepted, for whom, signed with which keys (never none: see `tokens.keys.THROWAWAY`)."""

    url: str
    audience: str
    keys: KeySet = field(default_factory=KeySet)


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """A key in `header` is exchanged for a token at `path` of `cluster`, where a token is needed."""

    cluster: str
    path: str
    header: str = "x-api-key"


@dataclass(frozen=True, slots=True)
class Tls:
    """What clients get beside encryption. `hsts_s`: browsers shall use nothing but HTTPS for so long; 0 says nothing.

    `redirect_port` tells clients of plain HTTP where to go; `http3` serves the same port over UDP too. Certificate and key
    are not part of it: they change while everything else stays.
    """

    hsts_s: int = 0
    redirect_port: int | None = None
    http3: bool = False


@dataclass(frozen=True, slots=True)
class Upstream:
    """How replicas may be reached. `certified`: the gateway has a certificate to show to those that speak TLS.

    Those on other machines must speak it, unless `plain`: then the network between is somebody else's care.
    """

    certified: bool = False
    plain: bool = False


ON_ONE_MACHINE = Upstream()


@dataclass(frozen=True, slots=True)
class Proxies:
    """Who stands between clients and the gateway, and tells the client's address: load balancers at `trusted` addresses, in
    X-Forwarded-For or, by `protocol`, before the first byte of each connection. Nobody else is believed.
    """

    trusted: tuple[str, ...] = ()
    protocol: bool = False

    @property
    def tell_by_header(self) -> bool:
        return bool(self.trusted) and not self.protocol


@dataclass(frozen=True, slots=True)
class Listener:
    """What the gateway is started with: where clients arrive, and how replicas may be reached.

        `body_limit_bytes` is what a request may carry that is for no operation, or for a mounted application. `tls` None is
    plain HTTP. `comparer` is the process beside the gateway that compares what mirrors answer. Without `proxies`, the client
    is whoever connects. At `inside_port` clients of the gateway's own network arrive, over plain HTTP and by no proxy.
    """

    host: str
    port: int
    body_limit_bytes: int = BODY_LIMIT_BYTES
    tls: Tls | None = None
    upstream: Upstream = ON_ONE_MACHINE
    max_header_size_kib: int = 16
    comparer: Endpoint | None = None
    proxies: Proxies = Proxies()
    inside_port: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """`client`: what one client may ask over all operations; `address`: what one address may, counted before its tokens are
    looked at. Each of so many `gateways` gives its share of every rate, of operations too.
    """

    client: Rate | None = None
    address: Rate | None = None
    gateways: int = 1


@dataclass(frozen=True, slots=True)
class Tracing:
    """Where spans go as OTLP over HTTP, and the share of requests (0 to 1) whose traces are recorded, everywhere."""

    collector: Endpoint
    sampling: float


@dataclass(frozen=True, slots=True)
class Overload:
    """When the gateway sheds requests: above so much memory of its own, or so much of the machine's CPU (None: never)."""

    memory_limit_mib: int = 1024
    cpu_limit_percent: int | None = None


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything. Routes of one path stand together, its refusal last, the most specific path first; `owned` are prefixes
    that never reach the `fallback`, the cluster of every other path; `ended_sessions` are those whose tokens are refused though
    they have not expired; `providers` are issuers beside our own; `faults` says what was left out of the input and why;
    `public_url` is what clients type.
    A `fallback_sample` of what the fallback answers is compared with mirrors' answers.
    """

    listener: Listener
    issuer: Issuer
    providers: tuple[Provider, ...] = ()
    api_keys: ApiKeys | None = None
    routes: tuple[Entry, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    documents: tuple[Document, ...] = ()
    limits: Limits = Limits()
    overload: Overload = Overload()
    owned: tuple[str, ...] = ()
    ended_sessions: tuple[str, ...] = ()
    fallback: str | None = None
    fallback_sample: tuple[Sample, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    tracing: Tracing | None = None
    compression: bool = False
    cors: Cors | None = None
    faults: tuple[str, ...] = ()
    public_url: str = ""
