-- Events that are part of a committed transaction and not yet published. A position is drawn as one of the transaction's
-- last acts, under the locks of whatever it changed: that is what makes it rise in commit order per key.
CREATE TABLE atoll.outbox (
    position   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         text NOT NULL,
    subject    text NOT NULL,
    key        text NOT NULL,
    headers    bytea NOT NULL,
    body       bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- Rows live for milliseconds: clean up after few of them, or an idle moment finds a long dead trail to walk.
ALTER TABLE atoll.outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- One row per consumed stream, and one for the relay: how far, and who may work on it.
CREATE TABLE atoll.cursor (
    source          text PRIMARY KEY,
    owner           text NOT NULL,
    epoch           bigint NOT NULL,
    expires_at      timestamptz NOT NULL,
    released        boolean NOT NULL DEFAULT false,
    former_released boolean NOT NULL DEFAULT true,
    identity        text NOT NULL DEFAULT '',
    sequence        bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);

-- Ids of events that were handled. They come in the order of time, so that a block range index finds the old ones.
CREATE TABLE atoll.inbox (
    id         text PRIMARY KEY,
    handled_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX inbox_age ON atoll.inbox USING brin (handled_at) WITH (pages_per_range = 32);

-- Attempts that began and may have killed the process.
CREATE TABLE atoll.attempt (
    id     text PRIMARY KEY,
    source text NOT NULL,
    number integer NOT NULL
);

-- Events that failed, and those that queue behind one of their key. `due_at` in epoch seconds.
CREATE TABLE atoll.parked (
    id       text PRIMARY KEY,
    source   text NOT NULL,
    type     text NOT NULL,
    key      text NOT NULL,
    sequence bigint NOT NULL,
    headers  bytea NOT NULL,
    body     bytea NOT NULL,
    attempts integer NOT NULL,
    due_at   double precision NOT NULL,
    state    text NOT NULL,
    error    text NOT NULL,
    trace    text NOT NULL
);
CREATE INDEX parked_queue ON atoll.parked (source, key, sequence);
