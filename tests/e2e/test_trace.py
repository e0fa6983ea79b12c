"""One trace from a request through events of two services, and the envelope that carries it on the real bus."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import nats
import pytest
from nats.js.api import RawStreamMsg

from tests.support.system import RunningSystem, running
from tests.support.waiting import until_sync

TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    with running("trail", tmp_path_factory.mktemp("trace") / "trail") as trail:
        yield trail


def take(trail: RunningSystem, name: str, **headers: str) -> httpx.Response:
    with trail.client() as http:
        answer = http.post("/first/steps", json={"name": name}, headers=headers)
    assert answer.status_code == 204, answer.text
    return answer


def heard(trail: RunningSystem, service: str, name: str) -> re.Match[str]:
    """The traceparent with which the service's handler got the event of that name."""

    def step() -> str:
        with trail.client() as http:
            steps = http.get(f"/{service}/steps").json()
        return next((str(step["traceparent"]) for step in steps if step["name"] == name), "")

    found = TRACEPARENT.fullmatch(until_sync(step, 20, f"{service} has handled {name}"))
    assert found is not None
    return found


def accessed(trail: RunningSystem, key: str, value: str) -> dict[str, Any]:
    """The gateway's log line of the one request with that."""
    log = trail.folder / ".atoll" / "gateway" / "access.log"

    def lines() -> list[dict[str, Any]]:
        return [line for line in map(json.loads, log.read_text().splitlines()) if line.get(key) == value]

    (line,) = until_sync(lines, 20, "the gateway has logged it")
    return line


async def stored(trail: RunningSystem, service: str, name: str) -> RawStreamMsg:
    """The last event of that service as the bus has it, read with its administrator's rights by an independent client."""
    password = json.loads((trail.folder / ".atoll" / "secrets.json").read_text())[f"bus.{service}-admin"]
    port = trail.processes()["nats"]["port"]
    client = await nats.connect(f"nats://{service}-admin:{password}@127.0.0.1:{port}", allow_reconnect=False)
    try:
        return await client.jetstream().get_last_msg(service, f"event.{service}.{name}.0")
    finally:
        await client.close()


def test_a_clients_trace_goes_through_request_event_handler_and_the_event_after_it(trail: RunningSystem) -> None:
    trace_id, span = secrets.token_hex(16), secrets.token_hex(8)
    answer = take(trail, "traced", traceparent=f"00-{trace_id}-{span}-01")
    last, first = heard(trail, "last", "traced"), heard(trail, "first", "traced")
    assert (last[1], first[1]) == (trace_id, trace_id)
    assert len({span, last[2], first[2]}) == 3, "every hop is a span of its own"
    line = accessed(trail, "traceparent", f"00-{trace_id}-{span}-01")
    assert (line["method"], line["path"], line["status"], line["service"]) == ("POST", "/first/steps", 204, "first")
    assert line["request_id"] == answer.headers["x-request-id"]


def test_without_a_clients_trace_the_request_id_in_the_gateways_log_names_it(trail: RunningSystem) -> None:
    request_id = take(trail, "untraced").headers["x-request-id"]
    trace_id = request_id.replace("-", "")
    assert heard(trail, "last", "untraced")[1] == trace_id
    assert heard(trail, "first", "untraced")[1] == trace_id
    assert accessed(trail, "request_id", request_id)["path"] == "/first/steps"


def test_a_traceparent_that_is_none_is_replaced_by_a_new_trace(trail: RunningSystem) -> None:
    take(trail, "forged", traceparent=f"00-{'0' * 32}-{'0' * 16}-01")
    assert heard(trail, "first", "forged")[1] == heard(trail, "last", "forged")[1] != "0" * 32


def test_what_a_handler_logs_has_the_trace_and_the_events_id(trail: RunningSystem) -> None:
    trace_id = secrets.token_hex(16)
    take(trail, "logged", traceparent=f"00-{trace_id}-{'1' * 16}-00")
    heard(trail, "last", "logged")
    log = trail.folder / ".atoll" / "logs" / "last-1.log"
    (line,) = [json.loads(line) for line in log.read_text().splitlines() if '"saw logged"' in line]
    assert line["trace_id"] == trace_id
    assert line["event_id"]


@pytest.mark.parametrize(("service", "name"), [("first", "step_taken"), ("last", "step_seen")])
async def test_an_event_is_stored_as_a_cloudevent_in_binary_mode(trail: RunningSystem, service: str, name: str) -> None:
    trace_id = secrets.token_hex(16)
    take(trail, key := f"for {service}", traceparent=f"00-{trace_id}-{'1' * 16}-01")
    heard(trail, "first", key)
    message = await stored(trail, service, name)
    headers = dict(message.headers or {})
    assert json.loads(message.data or b"") == {"name": key}
    moment = datetime.fromisoformat(headers.pop("ce-time").replace("Z", "+00:00"))
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)
    id, traced = headers.pop("ce-id"), TRACEPARENT.fullmatch(headers.pop("traceparent"))
    assert traced is not None
    assert traced[1] == trace_id
    assert headers == {
        "Nats-Msg-Id": id,
        "ce-specversion": "1.0",
        "ce-type": f"{service}.{name}",
        "ce-source": f"/{service}",
        "ce-partitionkey": key,
        "content-type": "application/json",
    }
