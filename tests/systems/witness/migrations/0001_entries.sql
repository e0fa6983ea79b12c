-- No unique index: an event that counts twice must be able to show.
CREATE TABLE entry (
    position integer PRIMARY KEY AUTOINCREMENT,
    event_id text NOT NULL,
    type text NOT NULL,
    order_id text NOT NULL
);
