"""Twenty products to try the shop with: taken in once, in one transaction with the events that tell everybody."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from atoll import Conflict, Router
from atoll.mongodb import Database
from catalog.assortment import take_in
from catalog.product import Product
from catalog.settings import CatalogSettings

__all__ = ["SAMPLES", "router", "take_in_samples"]

router = Router()

SAMPLES = (
    ("enamel-mug", "Enamel mug", "12.50", "Steel under white enamel, with a blue rim. Survives campfires and dishwashers."),
    ("driftwood-bowl", "Driftwood bowl", "48.00", "Turned from one piece of beech that the sea gave back. No two are alike."),
    ("linen-towel", "Linen towel", "19.90", "Washed linen from Normandy, 50 × 70 cm. Softer with every wash."),
    ("storm-lantern", "Storm lantern", "64.00", "Brass and glass, burns paraffin for eighteen hours and ignores the wind."),
    ("rope-doormat", "Rope doormat", "39.00", "Old mooring line, knotted by hand. Rinse it with a hose."),
    ("salt-cellar", "Salt cellar", "22.00", "Olive wood with a lid that swings aside. Comes with 100 g of grey sea salt."),
    ("fishing-sweater", "Fisherman’s sweater", "129.00", "Knitted in the round from oiled wool, so that rain runs off it."),
    ("canvas-bag", "Canvas bag", "34.50", "Sailcloth from boats that have sailed enough. Holds fifteen litres."),
    (
        "tide-clock",
        "Tide clock",
        "78.00",
        "One hand, once around in 12 hours and 25 minutes: high, low, and what is in between.",
    ),
    ("harbour-print", "Harbour print", "27.00", "Linocut of a small harbour at dawn, A3, numbered and signed."),
    ("seaweed-soap", "Seaweed soap", "7.80", "Olive oil, sea salt and bladderwrack. Smells of low tide, in a good way."),
    ("copper-kettle", "Copper kettle", "94.00", "Hammered copper, tinned inside, for 1.2 litres. It sings."),
    ("picnic-blanket", "Picnic blanket", "58.00", "Wool above, waxed cotton below, with a leather strap to carry it."),
    ("pocket-compass", "Pocket compass", "31.00", "Brass, oil-damped, and small enough for a coin pocket."),
    ("crab-cracker", "Crab cracker", "16.40", "Stainless steel. Good with walnuts out of season."),
    ("beeswax-candle", "Beeswax candle", "9.50", "Dipped thirty times. Burns for nine hours without a drip."),
    ("stone-mortar", "Stone mortar", "42.00", "Granite with a rough heart, 14 cm. Pesto in three minutes."),
    ("deck-chair", "Deck chair", "86.00", "Oiled ash and striped canvas, with three ways to sit and one to sleep."),
    ("gull-kite", "Gull kite", "24.00", "Ripstop nylon, 140 cm from tip to tip. Flies from a light breeze on."),
    ("message-bottle", "Message bottle", "5.90", "Green glass, a cork, sealing wax and paper. Delivery times vary."),
)


@router.on_start
async def take_in_samples(database: Database, settings: CatalogSettings) -> None:
    """At the first start only: the note that it was done is part of the same transaction."""
    if not settings.sample_products:
        return
    async with database.reader() as reader:
        if await reader.one_or_none(dict, "notes", {"_id": "samples"}):
            return
    try:
        await _take_in(database)
    except Conflict:  # another replica has just done it, or staff took in one of these first
        return


async def _take_in(database: Database) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    async with database.transaction() as tx:
        await tx.insert("notes", {"_id": "samples", "at": now})
        for sku, name, price, description in SAMPLES:
            await take_in(tx, Product(sku, name, Decimal(price), "EUR", description, now))
