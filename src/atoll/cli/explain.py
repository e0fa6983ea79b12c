"""`atoll explain`: what the gateway does with a request, and why."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from atoll.cli.here import Here, here, json_option
from atoll.errors import SystemMistake

if TYPE_CHECKING:
    from atoll.gateway.explain import Explanation

__all__ = ["command"]

_METHOD = re.compile(r"[A-Z]{3,10}")
_USAGE = "atoll explain GET /orders/42"


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="METHOD PATH")
@click.option("--token", help="With this access token.")
@click.option("--as", "user", metavar="USER", help="Signed in as USER, with a new token.")
@json_option
@here
def command(here: Here, what: tuple[str, ...], token: str | None, user: str | None, as_json: bool) -> None:
    """What the gateway would do with a request, and why. Nothing is sent.

    Which route is chosen or why none, what is wrong with the token, which scope is missing, and how the replicas are.
    """
    if len(what) == 2 and _METHOD.fullmatch(what[0].upper()) and what[1].startswith("/"):
        _show(_of_request(here, what[0].upper(), what[1], _token(here, token, user)), as_json)
        return
    raise SystemMistake(f"{' '.join(what)!r} is not METHOD PATH", hint=_USAGE)


def _token(here: Here, token: str | None, user: str | None) -> str | None:
    from atoll.cli.token import sign_in

    if token and user:
        raise SystemMistake("`--token` and `--as` exclude each other", hint="give one of them")
    return sign_in(here, user)["access_token"] if user else token


def _of_request(here: Here, method: str, path: str, token: str | None) -> Explanation:
    from atoll.gateway.admin import Admin
    from atoll.gateway.explain import Question, explain
    from atoll.gateway.saved import Saved

    saved = Saved.read(here.layout.gateway)
    if saved is None:
        raise SystemMistake(f"{here.system.name} has never run here", where=str(here.folder), hint="`atoll up` starts it")
    health = asyncio.run(Admin(saved.admin).health())
    return explain(saved.gateway, Question(method, path, token, time.time(), health))


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
