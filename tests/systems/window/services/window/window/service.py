"""A client: asks the gateway for what it shows, as any program outside would."""

import httpx

from atoll import Request, Service, Settings

service = Service("window", database=None)


class WindowSettings(Settings):
    atoll_gateway_url: str = ""


@service.get("/window", public=True)
async def look(request: Request, settings: WindowSettings) -> dict[str, str]:
    async with httpx.AsyncClient(base_url=settings.atoll_gateway_url) as http:
        answer = await http.get("/stock/candles", headers={"authorization": request.headers["authorization"]})
    return {"asked": str(answer.url), "answer": answer.text, "came_by": request.headers["x-forwarded-proto"]}
