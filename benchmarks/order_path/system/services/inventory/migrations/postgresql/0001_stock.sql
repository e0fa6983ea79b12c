-- No unique index on order_id: a duplicate must be able to show.
CREATE TABLE stock (sku text PRIMARY KEY, on_hand bigint NOT NULL);
CREATE TABLE movements (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id text NOT NULL,
    qty integer NOT NULL
);
INSERT INTO stock (sku, on_hand) VALUES ('widget', 1000000000);
