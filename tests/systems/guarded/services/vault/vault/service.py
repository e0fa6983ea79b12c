"""Has something to guard, and tells what it knows about who calls."""

from msgspec import Struct
from starlette.requests import Request

from atoll import Principal, Service


class Caller(Struct):
    """`id` and `scopes` are what the service goes by; `headers` only what it was sent."""

    id: str
    scopes: list[str]
    headers: dict[str, str]


service = Service("vault", database=None)
opened: list[str] = []


@service.get("/vault/secret", scope="vault:read")
async def read(me: Principal) -> str:
    opened.append(me.id)
    return "the secret"


@service.post("/vault/secret", scope="vault:write")
async def write(me: Principal) -> str:
    opened.append(me.id)
    return "changed"


@service.get("/vault/caller")
async def caller(me: Principal, request: Request) -> Caller:
    return Caller(me.id, sorted(me.scopes), _claimed(request))


@service.get("/vault/door", public=True)
async def door(request: Request) -> dict[str, str]:
    return _claimed(request)


@service.get("/vault/opened", public=True)
async def log() -> list[str]:
    """Who got in."""
    return opened


def _claimed(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name.startswith("x-atoll-")}
