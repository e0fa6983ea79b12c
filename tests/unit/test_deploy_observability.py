"""Alert rules and dashboards: of metrics that exist, in Prometheus's language."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from atoll.deploy.observability import ALERTS, files
from tests.support.pages import DOCS, names, rows

PAGE = DOCS / "reference" / "metrics.md"
FILES = files("shop")


def documented() -> set[str]:
    return {name for part in ("## The gateway", "## A service") for row in rows(PAGE, part) for name in names(row[0])}


def dashboards() -> dict[str, Any]:
    return {path: json.loads(text) for path, text in FILES.items() if path.endswith(".json")}


def expressions() -> Iterator[str]:
    yield from (one.expression for one in ALERTS)
    for found in dashboards().values():
        yield from (target["expr"] for panel in found["panels"] for target in panel["targets"])


def metrics(expression: str) -> set[str]:
    found = set(re.findall(r"\b(?:atoll|envoy)_\w+", expression)) - {"envoy_cluster_name", "envoy_tls_certificate"}
    return {name.removesuffix("_bucket") for name in found}


@pytest.mark.parametrize("expression", list(expressions()))
def test_every_expression_is_promql_of_metrics_that_exist(expression: str) -> None:
    promql_parser.parse(expression)
    assert metrics(expression)
    assert metrics(expression) <= documented()


def test_what_is_no_promql_is_noticed() -> None:
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        promql_parser.parse("sum by (service (rate(atoll_requests_total[5m]))")


def test_the_rules_are_those_in_the_file() -> None:
    document = yaml.safe_load(FILES["observability/alerts.yaml"])
    (group,) = document["groups"]
    assert [(one["alert"], one["expr"]) for one in group["rules"]] == [(one.name, one.expression) for one in ALERTS]
    assert all(one["labels"]["severity"] in ("critical", "warning") for one in group["rules"])


def test_a_summary_names_only_labels_that_its_expression_keeps() -> None:
    for one in ALERTS:
        kept = {label for group in re.findall(r"by \(([^)]*)\)", one.expression) for label in group.split(", ")}
        assert set(re.findall(r"\$labels\.(\w+)", one.summary)) <= kept, one.name


def test_panels_of_a_dashboard_do_not_lie_on_each_other() -> None:
    for path, found in dashboards().items():
        places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in found["panels"]}
        assert len(places) == len(found["panels"]), path
        assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"]), path
