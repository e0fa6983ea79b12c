"""Which commands there are, and how an error reaches a person."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from atoll.errors import AtollError

__all__ = ["COMMANDS", "atoll", "run"]

COMMANDS = {
    "up": ("up", "Run the system: engines, gateway, auth and services."),
    "down": ("down", "Stop it; nothing is left running."),
    "ps": ("ps", "What runs where."),
    "logs": ("logs", "The logs of all processes, or of one service."),
    "run": ("run", "Run one service in the foreground, in its place in the running system."),
    "restart": ("restart", "Replace a service's replicas one by one, without a failed request."),
    "scale": ("scale", "Set how many replicas a service has: NAME=N."),
    "canary": ("canary", "How many clients meet a service's other version, and how that ends."),
    "describe": ("describe", "A service's contract as JSON, derived from its code."),
    "contract": ("contract", "Accept derived contracts into contracts/."),
    "migrate": ("migrate", "Apply a service's migrations, or begin a new one."),
    "sql": ("sql", "A shell on a service's own database."),
    "token": ("token", "An access token for a user of the running system."),
    "auth": ("auth", "Signing keys, sessions, API keys: list, rotate, withdraw, end, make, delete."),
    "env": ("env", "The environment a replica of a service is started with."),
    "explain": ("explain", "What happens to a request and why, or what became of one and of its events."),
    "dead-letters": ("dead_letters", "Events that could not be handled: list, show, retry, discard."),
    "mirror": ("mirror", "How a second service's answers differ from those that clients get."),
    "gateway": ("gateway", "What the gateway does now: routes, tokens, limits, replicas."),
    "build": ("build", "Container images of a system's parts."),
    "render": ("render", "The system as files for a container host."),
    "rollout": ("rollout", "Another version of one service on Compose, without a failed request."),
    "provision": ("provision", "In containers: make the bus what the contracts need, once."),
    "database": ("database", "In containers: run one service's own database server."),
    "wait": ("wait", "In containers: wait for health, bus, database or a URL."),
    "doctor": ("doctor", "What this machine has and misses for running a system."),
}


class Lazy(click.Group):
    """Imports a command's module when that command runs. Help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"atoll.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_module, line) in COMMANDS.items()])


def _version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"atoll {version('atoll')}, Python {sys.version.split()[0]}")
        ctx.exit()


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-C", "folder", type=click.Path(path_type=Path), default=None, help="Default: the system around here.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="atoll's version.")
@click.pass_context
def atoll(ctx: click.Context, folder: Path | None) -> None:
    """The microservices architecture as one Python package."""
    ctx.obj = folder or Path(os.getcwd())


def run() -> int:
    from atoll.errors import AtollError, SystemMistake

    try:
        result = atoll.main(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except AtollError as error:
        click.echo(message(error), err=True)
        return 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:  # a disk that is full or read-only, a file of another user
        click.echo(message(SystemMistake(error.strerror or str(error), where=str(error.filename or ""))), err=True)
        return 1


def message(error: AtollError) -> str:
    """`error: where: what` and, on a line of its own, what to do."""
    return f"{click.style('error:', fg='red', bold=True)} {error}"
