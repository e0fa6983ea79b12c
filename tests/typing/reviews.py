from atoll import Event, Principal, Service
from atoll.postgresql import Transaction
from msgspec import Struct

class ReviewWritten(Event, name="review_written", key="sku"):
    sku: str
    stars: int

class NewReview(Struct, forbid_unknown_fields=True):
    sku: str
    stars: int

service = Service("reviews", database="postgresql", publishes=[ReviewWritten])

@service.post("/reviews", scope="reviews:write")
async def write_review(review: NewReview, me: Principal, tx: Transaction) -> NewReview:
    await tx.execute("INSERT INTO review VALUES ($1, $2, $3)", me.id, review.sku, review.stars)
    await tx.publish(ReviewWritten(sku=review.sku, stars=review.stars))
    return review
