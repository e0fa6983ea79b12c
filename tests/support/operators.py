"""What operators would say of the resources they are given: the types and checks that are made from their own schemas."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["refused"]

VALIDATORS = Path(__file__).parents[1] / "validators"
_MODULES = {
    "Cluster": "@kubernetes-models/cloudnative-pg/postgresql.cnpg.io/v1/Cluster",
    "ExternalSecret": "@kubernetes-models/external-secrets/external-secrets.io/v1/ExternalSecret",
}
_STRICT = ("--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler")


def refused(resources: Iterable[dict[str, Any]], folder: Path) -> str:
    """Every key that there is not and every value that can't be one, "" for none. `folder` is empty and written into."""
    given = list(resources)
    (folder / "node_modules").symlink_to(VALIDATORS / "node_modules")
    imports = [f'import type {{ I{kind} }} from "{module}";' for kind, module in _MODULES.items()]
    typed = [f"export const _{at}: I{one['kind']} = {json.dumps(one, indent=1)};" for at, one in enumerate(given)]
    (folder / "resources.ts").write_text("\n".join([*imports, *typed]))
    compiler = folder / "node_modules" / "typescript" / "bin" / "tsc"
    return _said(folder, "", str(compiler), *_STRICT, "resources.ts") + _said(
        folder, json.dumps(given), str(VALIDATORS / "operators.mjs")
    )


def _said(folder: Path, given: str, *arguments: str) -> str:
    done = subprocess.run(
        ["node", *arguments], cwd=folder, input=given, capture_output=True, text=True, check=False, timeout=120
    )
    return done.stdout + done.stderr
