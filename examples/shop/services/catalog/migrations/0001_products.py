"""Products by sku, and what lists them by name and finds them by word."""

from atoll.mongodb import Database


async def migrate(database: Database) -> None:
    await database.make("products")
    await database.make("notes")
    await database.collection("products").create_index([("retired", 1), ("sorted_as", 1), ("_id", 1)])
