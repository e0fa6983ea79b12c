"""`atoll token USER`: an access token, from the real endpoint."""

from __future__ import annotations

import json
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import click

from atoll.cli.here import Here, here, json_option
from atoll.errors import SystemMistake

__all__ = ["command", "reason", "sign_in", "trusting"]

_TIMEOUT_S = 15


@click.command()
@click.argument("user")
@click.option("--password", help="Default: the one in [auth.users.USER], else it is asked for.")
@json_option
@here
def command(here: Here, user: str, password: str | None, as_json: bool) -> None:
    """Sign USER in at the running gateway and print the access token."""
    answer = sign_in(here, user, password)
    click.echo(json.dumps(answer, indent=2) if as_json else answer["access_token"])


def sign_in(here: Here, user: str, password: str | None = None) -> dict[str, Any]:
    """The running system's answer to USER. Without a password it is the manifest's, or the one that is typed."""
    running = here.ask({"do": "ps"})
    return _sign_in(running["url"], running["ca"], user, _password(here, user) if password is None else password)


def _password(here: Here, user: str) -> str:
    """The manifest's, or the one that is typed. Raises SystemMistake where nobody can type."""
    users: dict[str, Any] = here.system.auth.options.get("users", {})
    declared = users.get(user, {}).get("password")
    if isinstance(declared, str):
        return declared
    if not sys.stdin.isatty():
        known = ", ".join(users) or "none"
        hint = f"users in atoll.toml: {known}; for another run this in a terminal, or `atoll token {user} --password …`"
        raise SystemMistake(f"the password of {user!r} is not known here", where=str(here.folder / "atoll.toml"), hint=hint)
    typed: str = click.prompt(f"password of {user}", hide_input=True, err=True)
    return typed


def trusting(ca: str) -> ssl.SSLContext | None:
    """For a gateway whose certificate `ca` alone vouches for; None, which is everybody's, where there is no such thing."""
    return ssl.create_default_context(cafile=ca) if ca else None


def _sign_in(url: str, ca: str, user: str, password: str) -> dict[str, Any]:
    form = urllib.parse.urlencode({"grant_type": "password", "username": user, "password": password}).encode()
    try:
        with urllib.request.urlopen(f"{url}/auth/token", form, timeout=_TIMEOUT_S, context=trusting(ca)) as response:
            return dict(json.load(response))
    except urllib.error.HTTPError as error:
        raise SystemMistake(f"{user!r} can't sign in: {url}/auth/token answered {error.code}, {reason(error)}") from None
    except OSError as error:
        raise SystemMistake(f"{url} can't be reached: {error}", hint="`atoll ps` shows what runs") from None


def reason(error: urllib.error.HTTPError) -> str:
    """What the answer says in words, in OAuth's shape or as a problem."""
    text = error.read(2_000).decode("utf-8", "replace")
    try:
        answer = json.loads(text)
        return str(answer.get("error_description") or answer.get("detail") or text)
    except (ValueError, AttributeError):
        return text
