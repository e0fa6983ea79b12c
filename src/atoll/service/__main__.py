"""`python -m atoll.service run | describe`: how a service's process is started, everywhere.

The service is `<ATOLL_SERVICE>.service:service` in the folder ATOLL_FOLDER, the only folder that is put on the path.
`describe` prints the contract as JSON and needs nothing but the code.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from atoll.errors import AtollError, SystemMistake

if TYPE_CHECKING:
    from atoll.service.service import Service

EXIT_MISTAKE = 2


def main() -> int:
    arguments = _arguments()
    try:
        if arguments.action == "describe":
            return _describe(arguments.module)
        return _run(arguments.module)
    except AtollError as error:
        sys.stderr.write(f"{os.environ.get('ATOLL_SERVICE', 'service')}: {error}\n")
        return EXIT_MISTAKE


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m atoll.service")
    parser.add_argument("action", choices=["run", "describe"])
    parser.add_argument("--module", default="", help="another module than <ATOLL_SERVICE>.service")
    return parser.parse_args()


def _run(module: str) -> int:
    from atoll.service.environment import Environment
    from atoll.service.logs import configure
    from atoll.service.process import Process
    from atoll.system.variables import with_files

    environment = Environment.read(with_files(os.environ))
    configure(environment.service)
    service = load(module)

    async def run() -> None:
        await Process(service, environment).run()

    with contextlib.suppress(KeyboardInterrupt):
        _loop_runner()(run())
    return 0


def _loop_runner() -> Callable[[Coroutine[Any, Any, None]], None]:
    try:
        import uvloop
    except ImportError:  # Windows: WSL2 has it
        return asyncio.run
    return uvloop.run


def _describe(module: str) -> int:
    import msgspec

    with contextlib.redirect_stdout(sys.stderr):
        from atoll.service.describe import describe

        document = describe(load(module))
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document, order="deterministic"), indent=2) + b"\n")
    return 0


def load(module: str = "") -> Service:
    """The service object. Raises SystemMistake with the file and line at which the service's own code failed."""
    from atoll.service.service import Service

    name = os.environ.get("ATOLL_SERVICE", "")
    folder = os.path.abspath(os.environ.get("ATOLL_FOLDER", "."))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = module or f"{name}.service"
    try:
        found = importlib.import_module(module)
    except SystemMistake:
        raise
    except Exception as error:
        raise _failed_import(module, folder, error) from error
    service = getattr(found, "service", None)
    if not isinstance(service, Service):
        raise SystemMistake(
            f"{module} has no `service`",
            where=getattr(found, "__file__", "") or "",
            hint=f'service = Service("{name}")',
        )
    return service


def _failed_import(module: str, folder: str, error: Exception) -> SystemMistake:
    """Where in the service's own code it failed, not where in ours."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(folder)]
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}"
    elif own:
        where = f"{own[-1].filename}:{own[-1].lineno}"
    else:
        where = folder
    return SystemMistake(
        f"{module} can't be imported: {type(error).__name__}: {error}",
        where=where,
        hint="a service starts with only its own folder on the path; other packages belong into its pyproject"
        if isinstance(error, ImportError)
        else "",
    )


if __name__ == "__main__":
    sys.exit(main())
