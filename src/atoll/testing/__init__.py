"""For service authors: one service under test, in this process, in milliseconds.

Its database is a real one of its kind (a copy of a migrated template), its bus is the one in memory that passes the real
one's suite, relay and consumers are those of production. What is simulated is the network and auth: `as_user` says who calls.
Read first: `under_test.py`; `databases.py` is where databases come from.
"""

from __future__ import annotations

from atoll.testing.sockets import Socket
from atoll.testing.under_test import UnderTest, under_test

__all__ = ["Socket", "UnderTest", "under_test"]
