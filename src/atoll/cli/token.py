"""`atoll token USER`: an access token, from the real endpoint."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import click

from atoll.cli.here import Here, here, json_option
from atoll.errors import SystemMistake

__all__ = ["command"]

_TIMEOUT_S = 15


@click.command()
@click.argument("user")
@click.option("--password", help="Default: the one in [auth.users.USER], else it is asked for.")
@json_option
@here
def command(here: Here, user: str, password: str | None, as_json: bool) -> None:
    """Sign USER in at the running gateway and print the access token."""
    url: str = here.ask({"do": "ps"})["url"]
    declared = here.system.auth.options.get("users", {}).get(user, {}).get("password")
    secret = password or declared or click.prompt(f"password of {user}", hide_input=True, err=True)
    answer = _sign_in(url, user, secret)
    click.echo(json.dumps(answer, indent=2) if as_json else answer["access_token"])


def _sign_in(url: str, user: str, password: str) -> dict[str, Any]:
    form = urllib.parse.urlencode({"grant_type": "password", "username": user, "password": password}).encode()
    try:
        with urllib.request.urlopen(f"{url}/auth/token", form, timeout=_TIMEOUT_S) as response:
            return dict(json.load(response))
    except urllib.error.HTTPError as error:
        raise SystemMistake(f"{url}/auth/token answered {error.code}: {error.read(2000).decode('utf-8', 'replace')}") from None
    except OSError as error:
        raise SystemMistake(f"{url} can't be reached: {error}", hint="`atoll ps` shows what runs") from None
