-- AUTOINCREMENT: a number is never given twice, so a stream that resumes after one misses nothing.
CREATE TABLE messages (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    customer_id TEXT NOT NULL,
    order_id    TEXT NOT NULL UNIQUE,
    kind        TEXT NOT NULL CHECK (kind IN ('order_confirmed', 'order_cancelled')),
    text        TEXT NOT NULL,
    created_at  TEXT NOT NULL
);
CREATE INDEX messages_of_customer ON messages (customer_id, id);
