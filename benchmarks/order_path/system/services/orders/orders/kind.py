"""The one setting of this benchmark: which kind of database both services have."""

from typing import Literal

KIND: Literal["sqlite", "postgresql"] = "sqlite"
