"""docs/reference/cli.md says what the commands say of themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from atoll.cli import commands
from tests.support.pages import DOCS

PAGE = DOCS / "reference" / "cli.md"


def every(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """All that can be run, with what is typed for it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from every(below, f"{path} {name}")


def section(path: str, command: click.Command) -> str:
    """What the page says of a command: its usage, its help and its options."""
    context = click.Context(command)
    arguments = [one.make_metavar(context) for one in command.params if isinstance(one, click.Argument)]
    options = [one for one in command.params if isinstance(one, click.Option)]
    usage = " ".join([path, *(["[OPTIONS]"] if options else []), *arguments])
    text = f"## `{usage}`\n\n{inspect.cleandoc(command.help or '')}\n"
    if options:
        text += "\n| option | |\n| --- | --- |\n" + "".join(map(option, options))
    return text


def option(one: click.Option) -> str:
    shown = " ".join([", ".join(one.opts), *([] if one.is_flag else [one.metavar or one.type.name.upper()])])
    default = f" Default: {one.default}." if one.show_default else ""
    return f"| `{shown}` | {one.help}{default} |\n"


def test_the_page_has_every_command_as_it_describes_itself() -> None:
    page = PAGE.read_text("utf-8")
    found = list(every(commands.atoll, "atoll"))
    for path, command in found:
        assert section(path, command) in page
    headings = re.findall(r"^## `(.*)`$", page, re.MULTILINE)
    assert headings == [section(path, command).splitlines()[0].strip("#` ") for path, command in found]
