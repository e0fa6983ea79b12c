"""A page with its files."""

from starlette.responses import HTMLResponse

from atoll import Service

service = Service("leaves", database=None)
files = service.static("/files", "files")


@service.get("/", public=True)
async def home() -> HTMLResponse:
    return HTMLResponse(f'<link href="{files.url("site.css")}"><img src="{files.url("deep/dot.svg")}">')
