"""`atoll up`: the whole system, in the foreground or behind it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import click

from atoll.cli.here import Here, here, json_option
from atoll.errors import AtollError, EngineOutage, SystemMistake
from atoll.host.layout import Layout

__all__ = ["command"]


@click.command()
@click.option("--detach", is_flag=True, help="Return when everything is ready; `atoll down` stops it.")
@click.option("--isolated", is_flag=True, help="Choose a free port for the gateway too, to run beside another copy.")
@click.option("--tls", is_flag=True, help="HTTPS, with a certificate that this machine makes unless atoll.toml names one.")
@click.option("--reload", is_flag=True, help="Replace a service's replicas when its files change.")
@click.option("--frozen", is_flag=True, help="Refuse contracts that differ from the accepted ones.")
@click.option("--except", "excluded", multiple=True, metavar="NAME", help="Start everything of NAME but its replicas.")
@json_option
@here
def command(here: Here, detach: bool, as_json: bool, excluded: tuple[str, ...], **flags: bool) -> int:
    """Run the system: engines, gateway, auth and services. Returns at once with what is wrong, or runs until Ctrl-C.

    It is up when all replicas are ready and the gateway sends them requests. Events that were left from before are told
    after 2 s and waited for until 10 s. One that fails holds nobody up: a warning says which, how often and why.
    """
    from atoll.host.machine import Options

    started = time.monotonic()
    for name in excluded:
        here.system.service(name)
    options = Options(excluded=frozenset(excluded), **flags)
    folder = here.folder

    def show(summary: dict[str, Any]) -> None:
        summary["took_s"] = round(time.monotonic() - started, 2)
        click.echo(json.dumps(summary, indent=2) if as_json else text(summary, folder))
        if not detach and not as_json:
            click.echo("\nCtrl-C stops it.")
        sys.stdout.flush()

    def say(line: str) -> None:
        click.echo(line, err=True)

    if detach:
        return _detached(folder, options, say, show)
    from atoll.host.host import Report, run

    run(folder, options, Report(say, show))
    return 0


def _detached(folder: Path, options: Any, say: Any, show: Any) -> int:
    """The host goes on as a process of its own session; this one waits for its report and relays it."""
    Layout(folder).make(())  # where it will write its log
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    host = os.fork()
    if host == 0:
        os.close(read)
        _become_host(folder, options, write)
    os.close(write)
    with os.fdopen(read, "r") as lines:
        try:
            return _relayed(folder, lines, say, show)
        except KeyboardInterrupt:
            os.kill(host, signal.SIGTERM)
            say("\ninterrupted: what has started is stopped again")
            os.waitpid(host, 0)
            return 130


def _relayed(folder: Path, lines: TextIO, say: Any, show: Any) -> int:
    for line in lines:
        told = json.loads(line)
        if "say" in told:
            say(told["say"])
        elif "ready" in told:
            show(told["ready"])
            return 0
        else:
            raise _error(told)
    raise EngineOutage("the host ended without a word", hint=f"see {folder / '.atoll/logs/host.log'}")


def _error(told: dict[str, Any]) -> AtollError:
    kind = EngineOutage if told["outage"] else SystemMistake
    return kind(told["detail"], hint=told["hint"], **({} if told["outage"] else {"where": told["where"]}))


def _become_host(folder: Path, options: Any, write: int) -> None:
    """The detached child's whole life; never returns."""
    os.setsid()
    report = os.fdopen(write, "w", buffering=1)
    code = 1
    try:
        _redirect(folder)
        code = _host(folder, options, report)
    except BaseException as error:
        import traceback

        traceback.print_exc()
        _tell(report, {"outage": True, "detail": f"the host failed: {error!r}", "hint": "see .atoll/logs/host.log"})
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _host(folder: Path, options: Any, report: Any) -> int:
    from atoll.host.host import Report, run

    def say(line: str) -> None:
        print(time.strftime("%H:%M:%S"), line, flush=True)
        _tell(report, {"say": line})

    def ready(summary: dict[str, Any]) -> None:
        _tell(report, {"ready": summary})
        report.close()

    try:
        run(folder, options, Report(say, ready))
    except AtollError as error:
        print(time.strftime("%H:%M:%S"), error, flush=True)
        where = getattr(error, "where", "")
        outage = not isinstance(error, SystemMistake)
        _tell(report, {"outage": outage, "detail": error.detail, "hint": error.hint, "where": where})
        return 1
    return 0


def _tell(report: Any, line: dict[str, Any]) -> None:
    """Until the report is closed, or nobody listens any more."""
    if not report.closed:
        try:
            report.write(json.dumps(line) + "\n")
        except OSError:
            with contextlib.suppress(OSError):  # it tries to write once more
                report.close()


def _redirect(folder: Path) -> None:
    """Nothing of the terminal stays open, and what the host says goes to its log."""
    log = os.open(Layout(folder).log("host"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


def text(summary: dict[str, Any], folder: Path) -> str:
    """What runs where, who can sign in, and two commands that work."""
    url = summary["url"]
    replicas = [one for one in summary["processes"] if one["service"] and one["kind"] != "database"]
    lines = [f"{summary['system']} is up at {url}, {summary['took_s']} s", ""]
    lines += [f"  {name:<12} {version}" for name, version in summary["engines"].items()]
    lines.append("")
    for name in sorted({one["service"] for one in replicas}):
        own = [one for one in replicas if one["service"] == name]
        where = f"{url}{summary['routes'][name]}" if name in summary["routes"] else ""
        pids = ", ".join(str(one["pid"]) for one in own)
        lines.append(f"  {name:<14} {where:<42} pid {pids}".rstrip())
    lines += [f"  {name:<14} is down: {why}" for name, why in summary["down"].items()]
    return "\n".join(lines + _trust(summary) + _logins(summary) + _examples(summary, _typed(folder)))


def _trust(summary: dict[str, Any]) -> list[str]:
    if not summary["ca"]:
        return []
    return ["", f"  HTTPS with a certificate of this machine's own: clients must trust {summary['ca']}"]


def _logins(summary: dict[str, Any]) -> list[str]:
    if not summary["logins"]:
        return []
    return ["", *(f"  sign in as {name:<12} password {password}" for name, password in summary["logins"].items())]


def _typed(folder: Path) -> str:
    """How to call atoll from another shell: by name where it is on the path, with its folder and the system's otherwise."""
    own = os.path.abspath(sys.argv[0])
    found = shutil.which("atoll")
    return "atoll" if found and os.path.abspath(found) == own else f"{shlex.quote(own)} -C {shlex.quote(str(folder))}"


def _examples(summary: dict[str, Any], atoll: str) -> list[str]:
    lines = ["", f"  API: {summary['url']}/docs"]
    curl = f"curl --cacert {shlex.quote(summary['ca'])}" if summary["ca"] else "curl"
    public = [one for one in summary["examples"] if one["public"]]
    private = [one for one in summary["examples"] if not one["public"]]
    if public:
        lines.append(f"  {curl} {summary['url']}{public[0]['path']}")
    if private and summary["logins"]:
        user = next(iter(summary["logins"]))
        token = f'-H "Authorization: Bearer $({atoll} token {user})"'
        lines.append(f"  {curl} {token} {summary['url']}{private[0]['path']}")
    return lines
