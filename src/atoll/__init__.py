"""atoll: the microservices architecture as one Python package.

What service authors import. Names are loaded when they are first used, so that `import atoll` costs nothing:

    from atoll import Service, Event, Principal, NotFound
    from atoll.postgresql import Transaction
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.datastructures import UploadFile as UploadFile
    from starlette.requests import Request as Request
    from starlette.responses import Response as Response
    from starlette.websockets import WebSocket as WebSocket

    from atoll.database.ports import Database as Database
    from atoll.database.ports import Transaction as Transaction
    from atoll.delivery.handling import Delivery as Delivery
    from atoll.errors import Bug as Bug
    from atoll.errors import Conflict as Conflict
    from atoll.errors import Forbidden as Forbidden
    from atoll.errors import Invalid as Invalid
    from atoll.errors import Mistake as Mistake
    from atoll.errors import NotFound as NotFound
    from atoll.errors import Outage as Outage
    from atoll.errors import Refused as Refused
    from atoll.errors import Unauthorized as Unauthorized
    from atoll.service.events import Event as Event
    from atoll.service.page import Page as Page
    from atoll.service.parameters import Body as Body
    from atoll.service.parameters import Cookie as Cookie
    from atoll.service.parameters import Form as Form
    from atoll.service.parameters import Header as Header
    from atoll.service.parameters import Query as Query
    from atoll.service.principal import Principal as Principal
    from atoll.service.router import Router as Router
    from atoll.service.service import Service as Service
    from atoll.service.settings import Secret as Secret
    from atoll.service.settings import Settings as Settings

__version__ = "0.1.0"

_HOMES = {
    "Body": "atoll.service.parameters",
    "Bug": "atoll.errors",
    "Conflict": "atoll.errors",
    "Cookie": "atoll.service.parameters",
    "Database": "atoll.database.ports",
    "Delivery": "atoll.delivery.handling",
    "Event": "atoll.service.events",
    "Forbidden": "atoll.errors",
    "Form": "atoll.service.parameters",
    "Header": "atoll.service.parameters",
    "Invalid": "atoll.errors",
    "Mistake": "atoll.errors",
    "NotFound": "atoll.errors",
    "Outage": "atoll.errors",
    "Page": "atoll.service.page",
    "Principal": "atoll.service.principal",
    "Query": "atoll.service.parameters",
    "Refused": "atoll.errors",
    "Request": "starlette.requests",
    "Response": "starlette.responses",
    "Router": "atoll.service.router",
    "Secret": "atoll.service.settings",
    "Service": "atoll.service.service",
    "Settings": "atoll.service.settings",
    "Transaction": "atoll.database.ports",
    "Unauthorized": "atoll.errors",
    "UploadFile": "starlette.datastructures",
    "WebSocket": "starlette.websockets",
}

__all__ = [
    "Body",
    "Bug",
    "Conflict",
    "Cookie",
    "Database",
    "Delivery",
    "Event",
    "Forbidden",
    "Form",
    "Header",
    "Invalid",
    "Mistake",
    "NotFound",
    "Outage",
    "Page",
    "Principal",
    "Query",
    "Refused",
    "Request",
    "Response",
    "Router",
    "Secret",
    "Service",
    "Settings",
    "Transaction",
    "Unauthorized",
    "UploadFile",
    "WebSocket",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'atoll' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
