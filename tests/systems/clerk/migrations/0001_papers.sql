CREATE TABLE paper (name text PRIMARY KEY);
-- No unique index: a copy that is made twice must be able to show.
CREATE TABLE copy (position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, half text NOT NULL);
