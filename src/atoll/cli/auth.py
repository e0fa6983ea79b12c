"""`atoll auth`: signing keys and sessions, through auth's own operations at the gateway. Needs no password on this machine."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

from atoll.cli.here import Here, here, json_option
from atoll.cli.token import reason
from atoll.errors import EngineOutage, SystemMistake

__all__ = ["command"]

_TIMEOUT_S = 15
_NOT_PUBLISHED = "the event bus has not taken it yet: gateway and services go on as before until it can be reached"


@click.group()
def command() -> None:
    """Signing keys and sessions."""


@command.command()
@json_option
@here
def keys(here: Here, as_json: bool) -> None:
    """The keys that tokens are signed and verified with, oldest first.

    published: not taken by the event bus yet. next: signs after a rotation. signing. verifying: until its tokens have expired.
    """
    _show_keys(_Operator.of(here).ask("GET", "/auth/keys"), as_json)


@command.command()
@json_option
@here
def rotate(here: Here, as_json: bool) -> None:
    """Sign with the next key from now on. The former one verifies until the last token that it signed has expired."""
    _show_keys(_Operator.of(here).ask("POST", "/auth/keys/rotation"), as_json)


@command.command()
@click.argument("kid")
@json_option
@here
def withdraw(here: Here, kid: str, as_json: bool) -> None:
    """Take the key KID out of use at once: every token that it signed is refused within a second, and another one signs."""
    _show_keys(_Operator.of(here).ask("DELETE", f"/auth/keys/{urllib.parse.quote(kid, safe='')}"), as_json)


@command.command()
@click.option("--session", help="One session: the `sid` of its tokens.")
@click.option("--user", help="Every session of the user of this name.")
@click.option("--client", help="Every token of this client.")
@click.option("--block", is_flag=True, help="With --user: no new sign-in either, until --unblock.")
@click.option("--unblock", is_flag=True, help="With --user: let the user sign in again; ends nothing.")
@json_option
@here
def revoke(here: Here, session: str, user: str, client: str, block: bool, unblock: bool, as_json: bool) -> None:
    """End sessions: their tokens are refused within a second, although they have not expired."""
    if len([one for one in (session, user, client) if one]) != 1 or ((block or unblock) and not user) or (block and unblock):
        raise click.UsageError("say one of --session, --user, --client; --block or --unblock go with --user")
    operator = _Operator.of(here)
    if session:
        answer = operator.ask("DELETE", f"/auth/sessions/{urllib.parse.quote(session, safe='')}")
    elif client:
        answer = operator.ask("DELETE", f"/auth/clients/{urllib.parse.quote(client, safe='')}/sessions")
    else:
        answer = operator.end_user(user, "block" if block else "unblock" if unblock else "")
    click.echo(json.dumps(answer, indent=2) if as_json else _ended(answer))
    if not answer.get("published", True):
        click.echo(_NOT_PUBLISHED, err=True)


@dataclass(frozen=True, slots=True)
class _Operator:
    """Auth's operations at the gateway at `url`, called with a token of the operator's."""

    url: str
    token: str

    @classmethod
    def of(cls, here: Here) -> _Operator:
        found = here.ask({"do": "operator"})
        form = {"grant_type": "client_credentials", "client_id": "operator", "client_secret": found["secret"]}
        answer = _called(urllib.request.Request(f"{found['url']}/auth/token", urllib.parse.urlencode(form).encode()))
        return cls(found["url"], answer["access_token"])

    def ask(self, method: str, path: str) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.token}"}
        return _called(urllib.request.Request(self.url + path, method=method, headers=headers))

    def end_user(self, name: str, and_: str) -> dict[str, Any]:
        user = self.ask("GET", f"/auth/users?{urllib.parse.urlencode({'username': name})}")["id"]
        match and_:
            case "block":
                return self.ask("PUT", f"/auth/users/{user}/block")
            case "unblock":
                return self.ask("DELETE", f"/auth/users/{user}/block")
        return self.ask("DELETE", f"/auth/users/{user}/sessions")


def _called(request: urllib.request.Request) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            return dict(json.loads(response.read() or b"{}"))
    except urllib.error.HTTPError as error:
        where = f"{request.get_method()} {request.full_url}"
        raise SystemMistake(f"auth refused: {reason(error)}", where=f"{where} answered {error.code}") from None
    except OSError as error:
        raise EngineOutage(f"{request.full_url} can't be reached: {error}", hint="`atoll ps` shows what runs") from None


def _show_keys(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        for key in answer["keys"]:
            click.echo(f"{key['kid']}  {key['state']:<9}  since {_moment(key['created_at'])}{_until(key)}")
    if not answer["published"]:
        click.echo(_NOT_PUBLISHED, err=True)


def _until(key: dict[str, Any]) -> str:
    left = key.get("until")
    return f"  for another {max(0, left - int(time.time()))} s" if left else ""


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _ended(answer: dict[str, Any]) -> str:
    count = answer.get("sessions")
    return "done" if count is None else f"{count} session{'' if count == 1 else 's'} ended"
