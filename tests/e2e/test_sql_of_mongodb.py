"""`atoll sql` on a MongoDB service: mongosh does it, where there is one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tests.support.shop import Shop


def test_mongosh_is_given_the_services_own_url_and_the_statement(shop: Shop, tmp_path: Path) -> None:
    mongosh = tmp_path / "mongosh"
    mongosh.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    mongosh.chmod(0o755)
    system = replace(shop.system, environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    url, *rest = system.must("sql", "catalog", "-c", "db.products.countDocuments()").splitlines()
    assert url.startswith("mongodb://catalog:")
    assert rest == ["--eval", "db.products.countDocuments()"]
    assert system.must("sql", "catalog").splitlines() == [url]


def test_without_mongosh_the_url_for_any_other_client_is_named(shop: Shop, tmp_path: Path) -> None:
    refused = replace(shop.system, environment={"PATH": str(tmp_path)}).run("sql", "catalog")
    assert refused.returncode == 1
    assert "mongosh is not on PATH" in refused.stderr
    assert "mongodb://catalog:" in refused.stderr
