"""`atoll explain`: what the gateway does with a request and why, or what became of one that was made, or of an event."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atoll.cli.here import Here, here, json_option
from atoll.errors import NotFound, SystemMistake

if TYPE_CHECKING:
    from atoll.gateway.explain import Explanation
    from atoll.gateway.saved import Saved
    from atoll.host.history import History

__all__ = ["command"]

_METHOD = re.compile(r"[A-Z]{3,10}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-([0-9a-f])[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_TRACE = re.compile(r"[0-9a-f]{32}")
_EVENTS_VERSION = "7"  # a UUIDv7 is an event's, others are requests'
_USAGE = "atoll explain GET /orders/42, atoll explain REQUEST-ID or atoll explain EVENT-ID"
_LINES = 50


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="METHOD PATH | ID")
@click.option("--token", help="METHOD PATH with this access token.")
@click.option("--as", "user", metavar="USER", help="METHOD PATH signed in as USER, with a new token.")
@json_option
@here
def command(here: Here, what: tuple[str, ...], token: str | None, user: str | None, as_json: bool) -> None:
    """What the gateway would do with a request, and why. Or what became of one that was made, or of an event.

    METHOD PATH sends nothing: which route is chosen or why none, what is wrong with the token, which scope is missing, and how
    the replicas are. The id of a request (`x-request-id`) or of its trace leads through the gateway's log, the logs of replicas
    and the events that it led to; an event's id from its outbox through the bus to each consumer, with attempts and errors.
    While the system is down, logs alone can say.
    """
    if len(what) == 2 and _METHOD.fullmatch(what[0].upper()) and what[1].startswith("/"):
        _show(_planned(here, what[0].upper(), what[1], _token(here, token, user)), as_json)
        return
    id = what[0].lower() if len(what) == 1 else ""
    uuid = _UUID.fullmatch(id)
    if not uuid and not _TRACE.fullmatch(id):
        raise SystemMistake(f"{' '.join(what)!r} is neither METHOD PATH nor an id", hint=_USAGE)
    found = _of_event(here, id) if uuid and uuid[1] == _EVENTS_VERSION else _of_request(here, id)
    click.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(_text(found)))


# a request that is not made


def _token(here: Here, token: str | None, user: str | None) -> str | None:
    from atoll.cli.token import sign_in

    if token and user:
        raise SystemMistake("`--token` and `--as` exclude each other", hint="give one of them")
    return sign_in(here, user)["access_token"] if user else token


def _planned(here: Here, method: str, path: str, token: str | None) -> Explanation:
    from atoll.gateway.admin import Admin
    from atoll.gateway.explain import Question, explain
    from atoll.gateway.logged import last_left

    saved = _saved(here)
    health = asyncio.run(Admin(saved.admin).health())
    left = partial(last_left, _access_log(here))
    return explain(saved.gateway, Question(method, path, token, time.time(), health, left))


def _access_log(here: Here) -> Path:
    return here.layout.gateway / "access.log"


def _saved(here: Here) -> Saved:
    from atoll.gateway.saved import Saved

    saved = Saved.read(here.layout.gateway)
    if saved is None:
        raise SystemMistake(f"{here.system.name} has never run here", where=str(here.folder), hint="`atoll up` starts it")
    return saved


def _show(found: Explanation, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2, ensure_ascii=False))
        return
    for step in found.steps:
        click.echo(f"{'ok' if step.passed else 'no':3}{step.what:9} {step.says}")
    click.echo(f"   answer    {_answer(found)}")


def _answer(found: Explanation) -> str:
    facts: dict[str, Any] = next((dict(step.facts) for step in found.steps if step.what == "route"), {})
    return f"{found.status}, the gateway's own" if found.status else f"what {facts['service']} answers"


# what was


def _of_event(here: Here, id: str) -> dict[str, Any]:
    from atoll.host.history import SCANNED, plain

    history = _history(here)
    if isinstance(history, Down):
        said = _said(here, (id,))
        if not said:
            raise NotFound(
                f"no process has logged anything of the event {id}; {history.unasked[0]}", hint="start it: `atoll up`"
            )
        return {"event": None, "logs": said, "not_asked": history.unasked}
    event = asyncio.run(history.event(id, int(id[:8] + id[9:13], 16) / 1000))
    if event is None:
        looked = f"outboxes, inboxes and parked events, and {SCANNED:,} messages of each stream from when it was made"
        raise NotFound(f"there is no event {id}: looked in {looked}{_unasked(history)}")
    return {"event": plain(event), "not_asked": history.silent}


def _of_request(here: Here, id: str) -> dict[str, Any]:
    from atoll.gateway.logged import find, moment
    from atoll.host.history import plain

    log = _access_log(here)
    looked = find(log, id)
    if not looked.lines:
        since = f", the oldest of {looked.since}" if looked.since else ""
        hint = "a line comes up to a second after its answer; a log that is full is set aside once, then it is gone"
        raise NotFound(f"no request has the id {id}: looked at {looked.count} lines of {log}{since}", hint=hint)
    line = looked.lines[0]
    found = {"request": list(looked.lines), "logs": _said(here, (line["request_id"], line["trace_id"]))}
    history = _history(here)
    if isinstance(history, Down):
        return {**found, "events": None, "not_asked": history.unasked}
    events = asyncio.run(history.trace(line["trace_id"], moment(line)))
    return {**found, "events": [dict(plain(one)) for one in events], "not_asked": history.silent}


@dataclass(frozen=True, slots=True)
class Down:
    """Nobody can be asked for events, and why."""

    why: str

    @property
    def unasked(self) -> list[str]:
        return [f"databases and streams, which have the events: {self.why}"]


def _history(here: Here) -> History | Down:
    from atoll.host.history import History, Places
    from atoll.provision import nats
    from atoll.provision.secrets import Secrets
    from atoll.system.plan import BusPlan

    try:
        state = here.ask({"do": "ps"}, quiet=True)
    except SystemMistake as mistake:
        return Down(mistake.detail)
    port = next(process["port"] for process in state["processes"] if process["name"] == "nats")
    server, secrets = nats.BusServer(here.system.name, port, here.layout.data), Secrets(here.layout.secrets)
    known = _saved(here).known
    contracts = {
        name: known.contracts[key]
        for name, entry in known.system.services.items()
        if entry.kind == "service" and entry.digests and (key := f"{name}.{entry.digests[0]}") in known.contracts
    }

    def database_url(name: str) -> str:
        if name in state["down"]:
            return ""
        return str(here.ask({"do": "env", "name": name}, quiet=True)["environment"].get("ATOLL_DATABASE_URL", ""))

    def bus_url(name: str) -> str:
        user = nats.admin(name)
        return server.url(user, secrets.of(f"bus.{user}"))

    return History(Places(BusPlan.of(contracts), database_url, bus_url))


def _said(here: Here, ids: tuple[str, ...]) -> list[dict[str, Any]]:
    """What processes logged with one of these ids."""
    found: list[dict[str, Any]] = []
    for path in sorted(here.layout.logs.glob("*.log*")):
        with path.open(encoding="utf-8", errors="replace") as log:
            for text in log:
                if any(id and id in text for id in ids) and len(found) < _LINES:
                    found.append({"process": path.name.partition(".log")[0], "line": text.rstrip()})
    return found


def _unasked(history: History) -> str:
    return f"; not asked: {', '.join(history.silent)}" if history.silent else ""


# for people


def _text(found: dict[str, Any]) -> list[str]:
    lines = [text for line in found.get("request", ()) for text in _request_text(line)]
    lines += [f"log       {one['process']}: {_message(one['line'])}" for one in found.get("logs", ())]
    for event in found.get("events", [found.get("event")]) or ():
        lines += _event_text(event) if event else []
    if found.get("events") == []:
        lines.append("events    none has its trace")
    return lines + [f"not asked {one}" for one in found["not_asked"]]


def _request_text(line: dict[str, Any]) -> list[str]:
    foreign = f"{line['foreign_subject']} of {line['foreign_issuer']}" if line.get("foreign_subject") else None
    who = f" by {line['subject'] or foreign}" if line["subject"] or foreign else ""
    replica = f" at {line['replica']}, attempt {line['attempts']}" if line["replica"] else ""
    why = f": {line['why']}" if line["why"] else ""
    left = f"{line['ratelimit_remaining']} of {line['ratelimit_limit']} left, all in {line['ratelimit_reset_s']} s"
    return [
        f"request   {line['time']} {line['method']} {line['path']}{who} from {line['client']}",
        f"route     {line['operation'] or 'none'}{replica}",
        *([f"limits    {left}"] if line["ratelimit_remaining"] else []),
        f"answer    {line['status']} after {line['duration_ms']} ms{why}",
        f"trace     {line['trace_id']}",
    ]


def _message(text: str) -> str:
    """A service's line is JSON; an engine's is what it is."""
    try:
        said = json.loads(text)
        return f"{said['level']} {said['message']}"
    except (ValueError, KeyError, TypeError):
        return text


def _event_text(event: dict[str, Any]) -> list[str]:
    where = {
        "outbox": "waits in the outbox",
        "stream": f"published as {event['sequence']}",
        "gone": "no stream has it any more",
    }
    lines = [f"event     {event['type'] or 'of an unknown type'} {event['id']} {event['time']}: {where[event['where']]}"]
    if not event["deliveries"]:
        lines.append("          nobody consumes it")
    return lines + [f"          {one['consumer']}: {_delivery_text(one)}" for one in event["deliveries"]]


def _delivery_text(one: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(one["at"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if one["at"] else ""
    match one["state"]:
        case "handled":
            return f"handled {at}"
        case "dead":
            return f"a dead letter after {one['attempts']} attempts: {one['error']}"
        case "waiting":
            return f"failed {one['attempts']} times, tried again {at}: {one['error']}"
        case "queued":
            return "queues behind an earlier event of its key"
        case "unknown":
            return f"can't be asked {one['error']}".rstrip()
        case _:
            return "not yet" + (f", {one['behind']} behind" if one["behind"] else "")
