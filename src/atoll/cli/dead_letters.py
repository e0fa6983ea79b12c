"""`atoll dead-letters`: events that a service could not handle, in its own database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atoll.cli.here import Here, here, json_option
from atoll.errors import NotFound, SystemMistake

if TYPE_CHECKING:
    from atoll.database.ports import Database, Parked

__all__ = ["command"]


@click.group()
def command() -> None:
    """Events that failed at their last attempt. Later events of the same key wait behind them, all others go on."""


@command.command("list")
@click.argument("name", required=False)
@click.option("--waiting", is_flag=True, help="Also those that will be tried again.")
@json_option
@here
def list_(here: Here, name: str | None, waiting: bool, as_json: bool) -> None:
    """Dead letters of NAME, or of every service."""
    found = [
        {"service": service, **_shown(event)}
        for service in ([name] if name else _with_database(here))
        for event in _work(here, service, lambda database: database.journal.parked(None if waiting else "dead"))
    ]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("no dead letters")
    for event in found if not as_json else ():
        state = "" if event["state"] == "dead" else f" ({event['state']})"
        click.echo(f"{event['service']}  {event['id']}  {event['type']}  key {event['key']}{state}  {event['error']}")


@command.command()
@click.argument("name")
@click.argument("id")
@json_option
@here
def show(here: Here, name: str, id: str, as_json: bool) -> None:
    """One event with its body and the traceback of its last attempt."""
    event = _work(here, name, lambda database: database.journal.parked_event(id))
    if event is None:
        raise NotFound(f"{name} has no parked event {id}", hint="`atoll dead-letters list` shows what is")
    shown = {**_shown(event), "headers": event.headers.decode(), "body": _body(event.body), "trace": event.trace}
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    for key, value in shown.items():
        text = value if isinstance(value, str) else json.dumps(value, indent=2)
        click.echo(f"{key}:" + (f"\n{text}" if "\n" in text else f" {text}"))


@command.command()
@click.argument("name")
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All dead letters of NAME.")
@click.option("--body", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Another body, from this file.")
@here
def retry(here: Here, name: str, ids: tuple[str, ...], everything: bool, body: Path | None) -> None:
    """Handle these events again now, their attempts counted anew."""
    from atoll.delivery import dead_letters

    content = _checked(body) if body else None
    for id in _chosen(here, name, ids, everything):
        _work(here, name, partial(dead_letters.retry, id=id, body=content))
        click.echo(f"{id} will be tried again")


@command.command()
@click.argument("name")
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All dead letters of NAME.")
@here
def discard(here: Here, name: str, ids: tuple[str, ...], everything: bool) -> None:
    """Forget these events for ever; the next event of the same key is handled."""
    from atoll.delivery import dead_letters

    for id in _chosen(here, name, ids, everything):
        _work(here, name, partial(dead_letters.discard, id=id))
        click.echo(f"{id} is discarded")


def _chosen(here: Here, name: str, ids: tuple[str, ...], everything: bool) -> tuple[str, ...]:
    if everything:
        dead = tuple(event.id for event in _work(here, name, lambda database: database.journal.parked("dead")))
        if not dead:
            click.echo(f"{name} has no dead letters")
        return dead
    if not ids:
        raise SystemMistake("which event?", hint="name its id, or `--all`; `atoll dead-letters list` shows them")
    return ids


def _with_database(here: Here) -> list[str]:
    """Those whose database can be asked now; who is down is left out."""
    down = here.ask({"do": "ps"})["down"]
    names = ["auth", *(spec.name for spec in here.system.services if spec.kind == "service" and not spec.command)]
    return [name for name in names if name not in down and _url(here, name)]


def _url(here: Here, name: str) -> str:
    environment: dict[str, str] = here.ask({"do": "env", "name": name})["environment"]
    return environment.get("ATOLL_DATABASE_URL", "")


def _work(here: Here, name: str, work: Callable[[Database], Awaitable[Any]]) -> Any:
    """What `work` gives on NAME's database, opened with NAME's own rights."""
    from atoll.database import open_database

    url = _url(here, name)
    if not url:
        raise SystemMistake(f"{name} has no database")

    async def run() -> Any:
        database = open_database(url, None)
        await database.open()
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def _shown(event: Parked) -> dict[str, Any]:
    names = ("id", "type", "source", "key", "sequence", "attempts", "state", "error")
    return {name: getattr(event, name) for name in names}


def _body(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")


def _checked(path: Path) -> bytes:
    content = path.read_bytes()
    try:
        json.loads(content)
    except ValueError as error:
        raise SystemMistake(f"this is not JSON: {error}", where=str(path)) from error
    return content
