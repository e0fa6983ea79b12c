-- What requests with an Idempotency-Key were answered. A row is written empty when its transaction begins, so that its id is
-- taken, and filled before the commit. Ids are digests: whoever reads this table learns no key.
CREATE TABLE atoll.answer (
    id          text PRIMARY KEY,
    kept_at     timestamptz NOT NULL DEFAULT now(),
    fingerprint bytea,
    status      integer,
    headers     bytea,
    body        bytea
) WITH (fillfactor = 50);
CREATE INDEX answer_age ON atoll.answer USING brin (kept_at) WITH (pages_per_range = 32);
