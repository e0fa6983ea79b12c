"""Auth's own process refuses to start on secrets that everybody can read, outside local mode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import atoll.auth
from tests.support.ports import free_port

DEMO = {"users": {"ada": {"password": "demo-only-ada", "scopes": ["orders:read"]}}}


def start(folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Its exit, which must come."""
    environment: Mapping[str, str] = {
        "PATH": os.environ["PATH"],
        "ATOLL_SERVICE": "auth",
        "ATOLL_FOLDER": str(Path(atoll.auth.__file__).parent),
        "ATOLL_LISTEN": f"127.0.0.1:{free_port()}",
        "ATOLL_DATABASE_URL": f"sqlite:///{folder}/auth.sqlite",
        "ATOLL_STATE_DIR": str(folder),
        "ATOLL_ISSUER": "https://shop.example/auth",
        "ATOLL_AUDIENCE": "shop",
        "ATOLL_AUTH": json.dumps(DEMO),
        **more,
    }
    command = [sys.executable, "-m", "atoll.service", "run", "--module", "atoll.auth.service"]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=30, check=False)


def test_demo_passwords_stop_a_deployed_auth_with_one_clear_message(tmp_path: Path) -> None:
    for mode in ("deployed", ""):
        done = start(tmp_path, ATOLL_MODE=mode)
        assert done.returncode == 2
        assert "auth refuses to start: user ada has its password in the manifest" in done.stderr
        assert "AUTH_USER_ADA_PASSWORD" in done.stderr
        assert "Traceback" not in done.stderr
        assert "demo-only" not in done.stderr


def test_an_unknown_option_stops_it_too(tmp_path: Path) -> None:
    done = start(tmp_path, ATOLL_MODE="local", ATOLL_AUTH='{"lifetime": 5}')
    assert done.returncode == 2
    assert "[auth] can't be used" in done.stderr
    assert "Traceback" not in done.stderr
