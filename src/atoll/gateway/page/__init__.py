"""The API page at /docs: server-rendered from the merged OpenAPI, one document without a single request to elsewhere.

It works without JavaScript; the few lines there are filter the list and copy examples. Read `document.py` first; `sketch`
shows schemas the way JSON looks, `examples` makes values and curl commands.
"""

from __future__ import annotations

from atoll.gateway.page.document import documents

__all__ = ["documents"]
