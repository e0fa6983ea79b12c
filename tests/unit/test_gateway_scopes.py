"""Whose scopes count while a configuration changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from atoll.gateway.apply import steps
from atoll.gateway.files import body
from atoll.gateway.ir import Listener
from atoll.gateway.translate import translate
from atoll.gateway.xds.folders import TYPES, Folders
from atoll.gateway.xds.resources import render
from atoll.tokens.providers import Providers
from tests.support.foreign import ForeignMint
from tests.support.gateway import contract, known


def test_no_token_filter_knows_an_issuer_that_the_routes_do_not_tell_from_ours() -> None:
    orders = contract("orders", {"/orders": {"post": {"security": [{"token": ["orders:write"]}]}}})
    what, folders, listener = known(orders), Folders("/x"), Listener("127.0.0.1", 8080)
    provider = ForeignMint(claim="scope").provider()
    before = render(translate(what, listener), folders)
    after = render(translate(replace(what, providers=Providers((provider,), 1)), listener), folders)
    on_disk: dict[str, Any] = {kind: body(kind, before[kind]) for kind in TYPES}
    for kind, content in steps(on_disk, after, {kind: body(kind, after[kind]) for kind in TYPES}):
        on_disk[kind] = content
        if provider.issuer.encode() in on_disk["ecds"]:
            assert b"\x03iss" in on_disk["rds"], "any token of the provider that says scope=orders:write would pass"
    assert provider.issuer.encode() in on_disk["ecds"]
