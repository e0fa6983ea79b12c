CREATE TABLE payments (
    order_id    TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL,
    status      TEXT NOT NULL
        CHECK (status IN ('charging', 'authorized', 'declined', 'cancelling', 'refunded', 'cancelled')),
    amount      TEXT NOT NULL,
    currency    TEXT NOT NULL,
    method      TEXT NOT NULL,
    charge_key  TEXT NOT NULL,
    charge_id   TEXT,
    created_at  TEXT NOT NULL,
    updated_at  TEXT NOT NULL
) WITHOUT ROWID;
