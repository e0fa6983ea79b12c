"""`atoll gateway`: what the gateway does, read from its own files, whether anything runs or not."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atoll.cli.here import Here, here, json_option
from atoll.errors import NotFound, SystemMistake

if TYPE_CHECKING:
    from atoll.gateway.ir import Gateway
    from atoll.gateway.saved import Saved

__all__ = ["command"]


@click.group()
def command() -> None:
    """The gateway: what it does now. Needs neither the controller nor the bus."""


@command.command()
def run() -> int:
    """Run a gateway in the foreground of a container: Envoy, its controller, and what compares mirrors' answers.

    Told by environment variables alone (docs/reference/environment.md). SIGTERM drains it first.
    """
    import logging
    import os
    import sys

    from atoll.gateway.container import run
    from atoll.system.variables import with_files

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    return run(with_files(os.environ))


@command.command()
@click.argument("what", required=False, metavar="[NAME|PATH]")
@json_option
@here
def show(here: Here, what: str | None, as_json: bool) -> None:
    """What the gateway does now, all of it, or what concerns a service, an operation or a path.

    The routes in the order in which they are tried, with the token each one needs; replicas with what Envoy says of them.
    """
    from atoll.gateway import show

    saved = _saved(here)
    gateway = saved.gateway if saved else _accepted(here)
    if what:
        _check(gateway, what)
    health = asyncio.run(_health(saved))
    constant = _constant(here, saved) if saved and not what else {}
    if as_json:
        click.echo(json.dumps({**_document(here, gateway, health, what), **constant}, indent=2, ensure_ascii=False))
        return
    lines = [f"{name:<12}{said}" for name, said in constant.items()]
    click.echo("\n".join([*_state(here, saved, health is not None), "", *lines, show.text(gateway, health or {}, what)]))


@command.command()
@json_option
@here
def diff(here: Here, as_json: bool) -> int:
    """What Envoy really uses against what it should: nothing and 0, every difference and 1, or 2 when it can't be asked.

    Named by resource and field: a file that somebody edited, an Envoy that has old files, an update that it refused.
    """
    from atoll.gateway.admin import Admin
    from atoll.gateway.diff import differences, running
    from atoll.gateway.xds.resources import render

    saved = _saved(here)
    dump = asyncio.run(Admin(saved.admin).dump()) if saved else None
    if saved is None or dump is None:
        click.echo(f"{here.system.name} does not run: there is no Envoy to ask", err=True)
        return 2
    found = differences(render(saved.gateway, saved.folders), running(dump))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2, ensure_ascii=False))
    for one in found if not as_json else ():
        click.echo(str(one))
    return 1 if found else 0


def _saved(here: Here) -> Saved | None:
    from atoll.gateway.saved import Saved

    return Saved.read(here.layout.gateway)


def _accepted(here: Here) -> Gateway:
    """The gateway of a system that has never run here: from the contracts that git has."""
    from atoll.gateway.ir import Endpoint
    from atoll.gateway.translate import translate
    from atoll.host.gateway import known_at_start, listener_of
    from atoll.host.processes import LOOPBACK
    from atoll.system import files

    # Where answers are compared has no port before the first start.
    comparer = Endpoint(LOOPBACK, 0) if here.system.gateway.mirrors else None
    listener = replace(listener_of(here.system.gateway), comparer=comparer)
    contracts = {one.name: found for one in here.system.services if (found := files.accepted(here.system, one.name))}
    return translate(known_at_start(here.system, contracts), listener)


def _check(gateway: Gateway, what: str) -> None:
    """Raises NotFound when no route and no cluster has to do with it."""
    from atoll.gateway.show import chosen

    if any(chosen(gateway, what)):
        return
    if what.startswith("/"):
        answer = f"{gateway.fallback} gets it, the fallback" if gateway.fallback else "the answer is 404"
        raise NotFound(f"no operation has the path {what}: {answer}", hint="`atoll gateway show` lists all paths")
    services = sorted({cluster.service for cluster in gateway.clusters})
    raise NotFound(f"the gateway knows no service or operation {what!r}", hint=f"services: {', '.join(services) or 'none'}")


async def _health(saved: Saved | None) -> dict[tuple[str, str], str] | None:
    """None when Envoy does not answer."""
    from atoll.gateway.admin import Admin

    return dict(found) if saved and (found := await Admin(saved.admin).health()) is not None else None


def _document(here: Here, gateway: Gateway, health: Any, what: str | None) -> dict[str, Any]:
    from atoll.gateway import show
    from atoll.gateway.saved import applied

    whole = show.plain(gateway)
    if what:
        routes, clusters = show.chosen(gateway, what)
        whole = {"routes": show.plain(routes), "clusters": show.plain(clusters)}
    replicas = [{"cluster": name, "endpoint": endpoint, "health": said} for (name, endpoint), said in (health or {}).items()]
    shown = [one for one in replicas if one["cluster"] in {cluster["name"] for cluster in whole["clusters"]}]
    return {**whole, "running": health is not None, "health": shown, "applied": applied(here.layout.gateway)}


def _constant(here: Here, saved: Saved) -> dict[str, str]:
    """What every gateway has and no declaration changes: where requests are seen, and what reads HTTP/1.1 before Envoy."""
    from atoll.engines import envoy_module
    from atoll.gateway.xds import metrics, strict_http1

    def named(file: str) -> str:
        return str(Path(file).relative_to(here.folder.absolute()))

    return {
        "access_log": named(saved.folders.access_log),
        "metrics": f"http://{saved.admin}/stats/prometheus?filter=^{metrics.PREFIX}",
        "http1": f"read strictly, before Envoy, by {strict_http1.NAME} of its module {envoy_module.NAME}",
    }


def _state(here: Here, saved: Saved | None, running: bool) -> list[str]:
    """Whether what follows is so at this moment."""
    from atoll.gateway.saved import applied

    name = here.system.name
    if saved is None:
        return [f"{name} has never run here. This is what its accepted contracts ask of the gateway:"]
    report = applied(here.layout.gateway)
    where = f"{'https' if saved.listener.tls else 'http'}://{saved.listener.host}:{saved.listener.port}"
    if not running:
        return [f"{name} does not run: Envoy does not answer at {saved.admin}. This is what the gateway knew last:"]
    lines = [f"{name} at {where}, version {report.get('version', 0)} of its configuration{_controller(here)}"]
    if report.get("error"):
        lines.append(f"not in use yet: {report['error']}")
    if drift := report.get("drift"):
        healed = f"put right at {drift['healed']}" if drift["healed"] else "and not yet put right"
        lines.append(f"drifted at {drift['seen']}, {healed}: {'; '.join(drift['what'])}")
    return lines


def _controller(here: Here) -> str:
    """What the host says of the controller when it is not as it should be."""
    try:
        state = here.ask({"do": "ps"}, quiet=True)
    except SystemMistake:
        return "; the host does not run, nothing changes it"
    (found,) = [one["state"] for one in state["processes"] if one["name"] == "gateway"] or ["missing"]
    return "" if found in ("running", "ready") else f"; its controller is {found}: the last good state stays"
