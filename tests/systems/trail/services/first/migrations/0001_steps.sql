CREATE TABLE step (name TEXT NOT NULL, traceparent TEXT NOT NULL);
