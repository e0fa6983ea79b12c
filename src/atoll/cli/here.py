"""The system a command is about: found from the folder it was started in, or from `-C`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atoll.host.layout import Layout
from atoll.system import files

if TYPE_CHECKING:
    from atoll.system.manifest import System

__all__ = ["Here", "aside", "here", "json_option"]


@dataclass
class Here:
    """`folder` is where to look from."""

    start: Path

    @cached_property
    def folder(self) -> Path:
        return files.find(self.start.resolve())

    @cached_property
    def system(self) -> System:
        return files.read(self.folder)

    @property
    def layout(self) -> Layout:
        return Layout(self.folder)

    def ask(self, request: dict[str, Any], *, quiet: bool = False) -> Any:
        """What the running host answers; its progress is printed unless `quiet`. Raises SystemMistake when there is none."""
        from atoll.host.control import ask

        return ask(self.layout, request, _nobody if quiet else click.echo)


def aside(line: str) -> None:
    """For who looks on, and not for who reads the output."""
    click.echo(line, err=True)


def _nobody(_line: str) -> None:
    """Whom nothing is told."""


def here(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command its Here as first argument."""

    @click.pass_context
    def with_here(ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        return ctx.invoke(command, Here(ctx.obj or Path.cwd()), *args, **kwargs)

    with_here.__doc__ = command.__doc__
    with_here.__name__ = command.__name__
    if hasattr(command, "__click_params__"):
        with_here.__click_params__ = command.__click_params__  # type: ignore[attr-defined]
    return with_here


json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
