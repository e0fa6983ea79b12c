"""For running every service's tests at once from here; a service alone has only its own folder on the path."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(folder) for folder in sorted((HERE / "services").iterdir()) if folder.is_dir())]
