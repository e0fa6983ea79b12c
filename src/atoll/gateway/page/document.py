"""The page's HTML. Everything that comes from a contract is escaped; the policy in its headers allows our style and script
by their digests and nothing else.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from atoll.gateway.ir import Document
from atoll.gateway.kept import Kept, Same
from atoll.gateway.page.examples import curl, first_content
from atoll.gateway.page.sketch import resolve, sketch

__all__ = ["documents"]

Json = dict[str, Any]
_METHODS = ("get", "head", "post", "put", "patch", "delete", "options")


def documents(api: Json) -> tuple[Document, ...]:
    """`/openapi.json` and `/docs`."""
    text = msgspec.json.encode(api).decode()
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = (("content-security-policy", policy), ("x-content-type-options", "nosniff"))
    return (
        Document("/openapi.json", "application/json", text, (("access-control-allow-origin", "*"),)),
        Document("/docs", "text/html; charset=utf-8", _html(api, style, script), headers),
    )


@functools.cache
def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8").strip()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _html(api: Json, style: str, script: str) -> str:
    title = escape(api["info"]["title"])
    services = _by_service(api)
    count = sum(len(operations) for operations in services.values())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{title} API</title><style>{style}</style></head>
<body>
<header><div><h1>{title} <span>API</span></h1>
<p>{_count(count, "operation")} of {_count(len(services), "service")} at <code>{escape(api["servers"][0]["url"])}</code>
 · <a href="/openapi.json">openapi.json</a></p></div>
<label class="filter" hidden><span>Filter</span><input type="search" placeholder="path, name or scope" autocomplete="off">
<kbd>/</kbd></label></header>
<div class="layout"><nav aria-label="Services">{"".join(_menu(services))}</nav>
<main>{_token_help(api)}{"".join(_sections(services, api))}
<p class="nothing" hidden>No operation matches.</p></main></div>
<script>{script}</script></body></html>
"""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _by_service(api: Json) -> dict[str, list[tuple[str, str, Json]]]:
    """Service → (method, path, operation), paths in their order, shorter ones before what is below them."""
    found: dict[str, list[tuple[str, str, Json]]] = {tag["name"]: [] for tag in api["tags"]}
    for path, item in sorted(api["paths"].items()):
        for method in _METHODS:
            if method in item:
                found[item[method]["tags"][0]].append((method.upper(), path, item[method]))
    return {service: operations for service, operations in found.items() if operations}


def _menu(services: dict[str, list[tuple[str, str, Json]]]) -> Iterator[str]:
    for service, operations in services.items():
        links = "".join(
            f'<li><a href="#{escape(one["operationId"])}"><b class="{method.lower()}">{method}</b>{escape(path)}</a></li>'
            for method, path, one in operations
        )
        name = escape(service)
        yield f'<section data-service="{name}"><a class="service" href="#{name}">{name}</a><ul>{links}</ul></section>'


def _token_help(api: Json) -> str:
    if "/auth/token" not in api["paths"]:
        return ""
    server = api["servers"][0]["url"].rstrip("/")
    command = (
        f"TOKEN=$(curl -s {server}/auth/token \\\n"
        "  -d grant_type=password -d username=YOUR-NAME -d password=YOUR-PASSWORD \\\n"
        "  | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"access_token\"])')"
    )
    text = "Operations marked with a scope or “token” need one."
    return f'<section class="token"><h2>Get a token</h2><p>{text}</p>{_code(command)}</section>'


def _sections(services: dict[str, list[tuple[str, str, Json]]], api: Json) -> Iterator[str]:
    about = {tag["name"]: tag.get("description", "") for tag in api["tags"]}
    around = _Around.of(api)
    _operation.begin()
    for service, operations in services.items():
        name = escape(service)
        text = "" if about[service].casefold() in ("", service.casefold()) else f"<p>{_prose(about[service])}</p>"
        shown = "".join(_operation(method, path, Same(one), around) for method, path, one in operations)
        yield f'<section class="service" id="{name}" data-service="{name}"><h2>{name}</h2>{text}{shown}</section>'


@dataclass(frozen=True, slots=True)
class _Around:
    """What an operation's part of the page depends on beside itself. Two are equal when their text is."""

    text: bytes
    api: Json = field(compare=False)

    @classmethod
    def of(cls, api: Json) -> _Around:
        components = {kind: some for kind, some in api["components"].items() if kind != "securitySchemes"}
        about = {"servers": api["servers"], "components": components}
        return cls(msgspec.json.encode(about), about)


@Kept
def _operation(method: str, path: str, one: Same[Json], around: _Around) -> str:
    operation, api = one.it, around.api
    name = operation["operationId"]
    scope = _access(operation)
    summary = operation.get("summary", "")
    words = escape(" ".join((method, path, name, scope, summary)).lower())
    return (
        f'<details class="operation" id="{escape(name)}" data-words="{words}"><summary>'
        f'<b class="method {method.lower()}">{method}</b><code class="path">{_path(path)}</code>'
        f'<span class="summary">{_prose(summary)}</span>'
        f'<span class="access {"public" if scope == "public" else "guarded"}">{escape(scope)}</span></summary>'
        f'<div class="body">{"".join(_parts(method, path, operation, api))}</div></details>'
    )


def _access(operation: Json) -> str:
    security = operation.get("security")
    if not security:
        return "public"
    scopes = security[0].get("token") or []
    return scopes[0] if scopes else "token"


def _prose(text: str) -> str:
    """Descriptions are CommonMark by standard; of that, `code` is shown as such."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _path(path: str) -> str:
    """May break after every slash; parameters stand out."""
    return re.sub(r"\{[^}]+\}", lambda found: f"<i>{found[0]}</i>", escape(path).replace("/", "/<wbr>"))


def _parts(method: str, path: str, operation: Json, api: Json) -> Iterator[str]:
    if operation.get("description"):
        yield f'<p class="description">{_prose(operation["description"])}</p>'
    yield f'<p class="name">{escape(operation["operationId"])}</p>'
    if operation.get("parameters"):
        yield _parameters(operation["parameters"], api)
    media_type, schema = first_content(resolve(operation.get("requestBody") or {}, api))
    if media_type:
        yield f"<h3>Body <small>{escape(media_type)}</small></h3>{_code(sketch(schema, api), copy=False)}"
    yield f"<h3>Example</h3>{_code(curl(method, path, operation, api))}"
    yield "<h3>Answers</h3>" + "".join(_answers(operation, api))


def _parameters(parameters: list[Json], api: Json) -> str:
    rows = "".join(_parameter(resolve(one, api), api) for one in parameters)
    return f'<h3>Parameters</h3><div class="wide"><table>{rows}</table></div>'


def _parameter(parameter: Json, api: Json) -> str:
    need = "required" if parameter.get("required") else "optional"
    return (
        f"<tr><th><code>{escape(parameter.get('name', ''))}</code></th><td>{escape(parameter.get('in', ''))}, {need}</td>"
        f"<td><code>{escape(sketch(parameter.get('schema') or {}, api))}</code>"
        f" {_prose(parameter.get('description', ''))}</td></tr>"
    )


def _answers(operation: Json, api: Json) -> Iterator[str]:
    for status, raw in sorted((operation.get("responses") or {}).items()):
        answer = resolve(raw, api)
        media_type, schema = first_content(answer)
        line = f'<b class="status s{escape(str(status)[:1])}">{escape(str(status))}</b> {_prose(answer.get("description", ""))}'
        if media_type == "application/problem+json" or not schema:
            yield f'<p class="answer">{line}</p>'
        else:
            shown = f"{line} <small>{escape(media_type)}</small>"
            yield f'<details class="answer" open><summary>{shown}</summary>{_code(sketch(schema, api), copy=False)}</details>'


def _code(text: str, *, copy: bool = True) -> str:
    button = '<button type="button" class="copy" hidden>Copy</button>' if copy else ""
    return f'<div class="code"><pre tabindex="0"><code>{escape(text)}</code></pre>{button}</div>'
