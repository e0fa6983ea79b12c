"""Says which version of a library it has."""

import colours

from atoll import Service

service = Service("new", database=None)


@service.get("/new/version", public=True)
async def version() -> dict[str, str]:
    return {"version": colours.VERSION}
