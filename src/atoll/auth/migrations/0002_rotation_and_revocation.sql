-- Keys that come and go, sessions that end before their tokens do. The same text for PostgreSQL and SQLite.

-- A key's life: since a version in the published set; acknowledged by the bus; retired when its successor began to sign, from
-- then on verifying until its last token has expired. A withdrawn key has no row.
ALTER TABLE signing_keys ADD COLUMN since_version BIGINT NOT NULL DEFAULT 0;
ALTER TABLE signing_keys ADD COLUMN token_lifetime_s BIGINT NOT NULL DEFAULT 86400; -- the longest of any token it signed
ALTER TABLE signing_keys ADD COLUMN retired_at BIGINT;
ALTER TABLE signing_keys ADD COLUMN verifies_until BIGINT;

-- What is refused although its tokens have not expired. A row is needed only until they have.
CREATE TABLE revocations (
    session_id TEXT PRIMARY KEY,
    shard      BIGINT NOT NULL,
    until      BIGINT NOT NULL
);
CREATE INDEX revocations_of_shard ON revocations (shard, until);

-- One row for each published list. Updating it takes the lock under which the list changes, and its version orders the lists.
CREATE TABLE revocation_shards (
    shard   BIGINT PRIMARY KEY,
    version BIGINT NOT NULL
);

ALTER TABLE users ADD COLUMN blocked_at BIGINT;

-- A client's tokens share one session, so that they can be ended together; a new one begins then.
ALTER TABLE clients ADD COLUMN session_id TEXT NOT NULL DEFAULT '';
