"""`atoll run NAME`: one service in the foreground, for a terminal or a debugger."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from atoll.cli.here import Here, here

__all__ = ["command"]


@click.command()
@click.argument("name")
@here
def command(here: Here, name: str) -> int:
    """Run NAME here, with the database, credentials and routes it has in the running system.

    Its supervised replicas go as soon as the gateway has found this one, and come back when it ends. `breakpoint()` works.
    Where the environment is there already (ATOLL_SERVICE, ATOLL_LISTEN), as in a container, it asks nobody.
    """
    if os.environ.get("ATOLL_SERVICE") == name and os.environ.get("ATOLL_LISTEN"):
        return _serve(name)
    from atoll.host.control import hold

    lent, connection = hold(here.layout, {"do": "lend", "name": name, "pid": os.getpid()}, click.echo)
    click.echo(f"{lent['replica']} runs here on {lent['environment']['ATOLL_ADDRESS']}; Ctrl-C ends it")
    sys.stdout.flush()
    with connection:  # the place is given back when this closes
        return _become(lent)


def _serve(name: str) -> int:
    """As a container is told. Its host name is its place: a container that restarts keeps it."""
    if os.environ.get("ATOLL_COMMAND"):
        return _commanded()
    import socket

    from atoll.registry.replica import canaries
    from atoll.service.__main__ import main
    from atoll.system.auth import AUTH_MODULE
    from atoll.system.plan import AUTH

    group = canaries(name) if os.environ.get("ATOLL_CANARY") == "1" else name
    os.environ.setdefault("ATOLL_REPLICA", f"{group}-{socket.gethostname()}")
    sys.argv = ["atoll.service", "run", *(["--module", AUTH_MODULE] if name == AUTH else [])]
    return main()


def _commanded() -> int:
    """A program that knows nothing of atoll."""
    import logging

    from atoll.host.program import run

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    return run(os.environ)


def _become(lent: dict[str, Any]) -> int:
    """In this very process when the interpreter is the same, so that a debugger which started it stays attached."""
    argv: list[str] = lent["argv"]
    os.environ.pop("PYTHONPATH", None)
    os.environ.update(lent["environment"])
    os.chdir(lent["folder"])
    if argv[0] != sys.executable or argv[1:4] != ["-P", "-m", "atoll.service"]:
        os.execvp(argv[0], argv)
    from atoll.service.__main__ import main

    started_in = ("", os.environ.get("PWD", ""), str(lent["system"]))
    sys.path[:] = [entry for entry in sys.path if entry not in started_in]
    sys.argv = argv[3:]
    if sys.breakpointhook is sys.__breakpointhook__ and "PYTHONBREAKPOINT" not in os.environ:  # nobody else's debugger
        sys.breakpointhook = _pause
    return main()


def _pause(*, header: str | None = None) -> None:
    """Python's debugger, except that Ctrl-C still ends the service after `c`, and does not bring the prompt back."""
    import pdb

    debugger = pdb.Pdb(nosigint=True)
    if header is not None:
        debugger.message(header)
    debugger.set_trace(sys._getframe(1))
