-- Events that are part of a committed transaction and not yet published. AUTOINCREMENT: a position is never used twice.
CREATE TABLE atoll_outbox (
    position   INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL,
    subject    TEXT NOT NULL,
    key        TEXT NOT NULL,
    headers    BLOB NOT NULL,
    body       BLOB NOT NULL,
    created_at REAL NOT NULL
);

-- One row per consumed stream, and one for the relay: how far, and who may work on it. Times are epoch seconds.
CREATE TABLE atoll_cursor (
    source          TEXT PRIMARY KEY,
    owner           TEXT NOT NULL,
    epoch           INTEGER NOT NULL,
    expires_at      REAL NOT NULL,
    released        INTEGER NOT NULL DEFAULT 0,
    former_released INTEGER NOT NULL DEFAULT 1,
    identity        TEXT NOT NULL DEFAULT '',
    sequence        INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- Ids of events that were handled. Row ids rise with time, which is how old ones are found without another index.
CREATE TABLE atoll_inbox (
    id         TEXT NOT NULL UNIQUE,
    handled_at REAL NOT NULL
);

-- Attempts that began and may have killed the process.
CREATE TABLE atoll_attempt (
    id     TEXT PRIMARY KEY,
    source TEXT NOT NULL,
    number INTEGER NOT NULL
) WITHOUT ROWID;

-- Events that failed, and those that queue behind one of their key.
CREATE TABLE atoll_parked (
    id       TEXT PRIMARY KEY,
    source   TEXT NOT NULL,
    type     TEXT NOT NULL,
    key      TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    headers  BLOB NOT NULL,
    body     BLOB NOT NULL,
    attempts INTEGER NOT NULL,
    due_at   REAL NOT NULL,
    state    TEXT NOT NULL,
    error    TEXT NOT NULL,
    trace    TEXT NOT NULL
);
CREATE INDEX atoll_parked_queue ON atoll_parked (source, key, sequence);
