"""A monolith of before, without atoll inside: every path that nobody else has."""

import json
import os
import sys


async def application(scope, receive, send):
    assert scope["type"] == "http"
    said = {
        "by": "wall",
        "path": scope["path"],
        "pid": os.getpid(),
        "atoll": "atoll" in sys.modules,
        "server": sys.modules["uvicorn"].__file__,
        "bus": os.environ["ATOLL_BUS_URL"].partition("@")[2],
    }
    if scope["path"].startswith("/reviews/"):
        said = {"sku": scope["path"].rpartition("/")[2], "stars": 4}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})
