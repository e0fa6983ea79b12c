-- The last good keys of other issuers, so that a start does not depend on them. The same text for PostgreSQL and SQLite.

CREATE TABLE provider_keys (
    name       TEXT PRIMARY KEY,
    issuer     TEXT NOT NULL, -- keys of a name that was given to another issuer are worth nothing
    jwks       TEXT NOT NULL,
    fetched_at BIGINT NOT NULL
);

-- One row: the version of what was published last, and what that was.
CREATE TABLE provider_list (
    id      INTEGER PRIMARY KEY,
    version BIGINT NOT NULL,
    body    TEXT NOT NULL
);
INSERT INTO provider_list (id, version, body) VALUES (1, 0, '[]');
