-- What machine clients send instead of signing in. The same text for PostgreSQL and SQLite.

CREATE TABLE api_keys (
    id         TEXT PRIMARY KEY, -- also the session of its tokens, so that they end with it
    client_id  TEXT NOT NULL REFERENCES clients (id),
    digest     TEXT NOT NULL UNIQUE, -- SHA-256 of the key, so that reading this table opens nothing
    name       TEXT NOT NULL,
    scope      TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);
CREATE INDEX api_keys_of_client ON api_keys (client_id, created_at);
