"""`atoll auth`: signing keys, sessions and API keys, through auth's operations at the gateway. Needs no password here."""

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
from atoll.cli.token import reason, trusting
from atoll.errors import EngineOutage, SystemMistake

__all__ = ["command"]

_TIMEOUT_S = 15
_NOT_PUBLISHED = "the event bus has not taken it yet: gateway and services go on as before until it can be reached"


@click.group()
def command() -> None:
    """Signing keys, sessions and API keys."""


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
    _warn(answer)


@command.command("api-keys")
@click.argument("client")
@json_option
@here
def api_keys(here: Here, client: str, as_json: bool) -> None:
    """The API keys of CLIENT, oldest first, without their secrets."""
    found = _Operator.of(here).ask("GET", _keys_of(client))
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(map(_api_key, found)))


@command.command("make-api-key")
@click.argument("client")
@click.option("--name", default="", help="What it is for.")
@click.option("--scope", "scopes", multiple=True, help="What it may do, several times for several. Default: what CLIENT may.")
@click.option("--expires-in-s", type=int, help="Seconds. Default: good until it is deleted.")
@json_option
@here
def make_api_key(here: Here, client: str, name: str, scopes: tuple[str, ...], expires_in_s: int | None, as_json: bool) -> None:
    """Make an API key for CLIENT and print it, this once. It is sent as `X-API-Key`."""
    wanted = {"name": name, "scopes": list(scopes) or None, "expires_in_s": expires_in_s}
    made = _Operator.of(here).ask("POST", _keys_of(client), wanted)
    click.echo(json.dumps(made, indent=2) if as_json else made["key"])


@command.command("delete-api-key")
@click.argument("client")
@click.argument("id")
@json_option
@here
def delete_api_key(here: Here, client: str, id: str, as_json: bool) -> None:
    """Refuse CLIENT's key ID, and every token that was given for it, within a second."""
    answer = _Operator.of(here).ask("DELETE", f"{_keys_of(client)}/{urllib.parse.quote(id, safe='')}")
    click.echo(json.dumps(answer, indent=2) if as_json else "deleted")
    _warn(answer)


def _keys_of(client: str) -> str:
    return f"/auth/clients/{urllib.parse.quote(client, safe='')}/keys"


def _api_key(one: dict[str, Any]) -> str:
    end = f"until {_moment(one['expires_at'])}" if one["expires_at"] else "until deleted"
    return f"{one['id']}  {end}  {one['scope']}  {one['name']}".rstrip()


def _warn(answer: dict[str, Any]) -> None:
    if not answer.get("published", True):
        click.echo(_NOT_PUBLISHED, err=True)


@dataclass(frozen=True, slots=True)
class _Operator:
    """Auth's operations at the gateway at `url`, which `ca` vouches for, called with a token of the operator's."""

    url: str
    ca: str
    token: str

    @classmethod
    def of(cls, here: Here) -> _Operator:
        found = here.ask({"do": "operator"})
        form = {"grant_type": "client_credentials", "client_id": "operator", "client_secret": found["secret"]}
        request = urllib.request.Request(f"{found['url']}/auth/token", urllib.parse.urlencode(form).encode())
        return cls(found["url"], found["ca"], _called(request, found["ca"])["access_token"])

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        body = None if content is None else json.dumps(content).encode()
        return _called(urllib.request.Request(self.url + path, body, headers, method=method), self.ca)

    def end_user(self, name: str, and_: str) -> Any:
        user = self.ask("GET", f"/auth/users?{urllib.parse.urlencode({'username': name})}")["id"]
        match and_:
            case "block":
                return self.ask("PUT", f"/auth/users/{user}/block")
            case "unblock":
                return self.ask("DELETE", f"/auth/users/{user}/block")
        return self.ask("DELETE", f"/auth/users/{user}/sessions")


def _called(request: urllib.request.Request, ca: str) -> Any:
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=trusting(ca)) as response:
            return json.loads(response.read() or b"{}")
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
    _warn(answer)


def _until(key: dict[str, Any]) -> str:
    left = key.get("until")
    return f"  for another {max(0, left - int(time.time()))} s" if left else ""


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _ended(answer: dict[str, Any]) -> str:
    count = answer.get("sessions")
    return "done" if count is None else f"{count} session{'' if count == 1 else 's'} ended"
