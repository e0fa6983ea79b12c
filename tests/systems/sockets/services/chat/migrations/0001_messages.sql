CREATE TABLE message (
  room TEXT NOT NULL,
  number INTEGER NOT NULL,
  author TEXT NOT NULL,
  text TEXT NOT NULL,
  PRIMARY KEY (room, number)
);
