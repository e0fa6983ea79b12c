-- The same text for PostgreSQL and SQLite: ids are text, times are epoch seconds.

CREATE TABLE users (
    id            TEXT PRIMARY KEY,
    username      TEXT NOT NULL,
    username_key  TEXT NOT NULL UNIQUE, -- normalised, so that two users can't be told apart by case alone
    password_hash TEXT NOT NULL,
    scope         TEXT NOT NULL,
    created_at    BIGINT NOT NULL
);

CREATE TABLE clients (
    id          TEXT PRIMARY KEY,
    secret_hash TEXT NOT NULL,
    scope       TEXT NOT NULL,
    created_at  BIGINT NOT NULL
);

-- One sign-in. Every refresh token descends from one; revoking it ends them all.
CREATE TABLE sessions (
    id         TEXT PRIMARY KEY,
    user_id    TEXT NOT NULL REFERENCES users (id),
    client_id  TEXT NOT NULL, -- '' when no client identified itself
    scope      TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX sessions_of_user ON sessions (user_id, expires_at);

-- Used ones are kept until they expire: that is how a stolen copy is noticed.
CREATE TABLE refresh_tokens (
    digest     TEXT PRIMARY KEY, -- SHA-256 of the token, so that reading this table signs nobody in
    session_id TEXT NOT NULL REFERENCES sessions (id),
    expires_at BIGINT NOT NULL,
    used_at    BIGINT
);
CREATE INDEX refresh_tokens_of_session ON refresh_tokens (session_id, expires_at);

CREATE TABLE signing_keys (
    kid             TEXT PRIMARY KEY,
    private_jwk     TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    acknowledged_at BIGINT -- when the bus had the set with this key; it does not sign before
);

-- One row. Updating it takes the lock under which keys are made, and its version orders the sets.
CREATE TABLE key_set (
    id      INTEGER PRIMARY KEY,
    version BIGINT NOT NULL
);
INSERT INTO key_set (id, version) VALUES (1, 0);
