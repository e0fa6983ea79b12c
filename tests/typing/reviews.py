from atoll import Event, Service
from atoll.postgresql import Transaction

class ReviewWritten(Event, name="review_written", key="sku"):
    sku: str
    stars: int

service = Service("reviews", database="postgresql", publishes=[ReviewWritten])

@service.post("/reviews", scope="reviews:write")
async def write_review(review: ReviewWritten, tx: Transaction) -> ReviewWritten:
    await tx.execute("INSERT INTO review VALUES ($1, $2)", review.sku, review.stars)
    await tx.publish(review)
    return review
