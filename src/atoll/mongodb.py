"""What a service with a MongoDB database imports: `Transaction` for one, `Database` for several short ones.

`WriteConflict` is what a transaction that did not begin with its write may end with.
"""

from atoll.database.mongodb import Collection, Database, Transaction, WriteConflict

__all__ = ["Collection", "Database", "Transaction", "WriteConflict"]
