-- What requests with an Idempotency-Key were answered. Ids are digests: whoever reads this table learns no key. Row ids rise
-- with time, which is how old ones are found without another index.
CREATE TABLE atoll_answer (
    id          TEXT NOT NULL UNIQUE,
    kept_at     REAL NOT NULL,
    fingerprint BLOB NOT NULL,
    status      INTEGER NOT NULL,
    headers     BLOB NOT NULL,
    body        BLOB NOT NULL
);
