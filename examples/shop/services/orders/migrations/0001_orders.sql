CREATE TABLE orders (
    id                uuid PRIMARY KEY,
    customer_id       text NOT NULL,
    status            text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'confirmed', 'cancelled')),
    reason            text CHECK ((reason IS NOT NULL) = (status = 'cancelled')),
    lines             jsonb NOT NULL,
    total             numeric(12, 2) NOT NULL CHECK (total > 0),
    vat               numeric(12, 2) NOT NULL CHECK (vat >= 0),
    currency          text NOT NULL,
    payment_method    text NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now(),
    stock_reserved_at timestamptz,
    settled_at        timestamptz
);
CREATE INDEX orders_of_customer ON orders (customer_id, created_at DESC, id DESC);

-- Our own copy of what the catalog sells, kept by its events.
CREATE TABLE prices (
    sku      text PRIMARY KEY,
    name     text NOT NULL,
    price    numeric(12, 2) NOT NULL,
    currency text NOT NULL,
    retired  boolean NOT NULL DEFAULT false
);
