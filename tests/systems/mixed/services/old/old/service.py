"""Says which version of a library it has."""

import colours

from atoll import Service

service = Service("old", database=None)


@service.get("/old/version", public=True)
async def version() -> dict[str, str]:
    return {"version": colours.VERSION}
