"""Stock and reservations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "stock",
        sa.Column("sku", sa.String(64), primary_key=True),
        sa.Column("on_hand", sa.Integer, nullable=False),
        sa.Column("reserved", sa.Integer, nullable=False, server_default="0"),
        sa.CheckConstraint("reserved >= 0 AND reserved <= on_hand", name="stock_within_bounds"),
    )
    op.create_table(
        "reservation",
        sa.Column("order_id", sa.String(36), primary_key=True),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("lines", JSONB, nullable=False),
        sa.CheckConstraint("state IN ('held', 'taken', 'released', 'refused')", name="reservation_state"),
    )


def downgrade() -> None:
    op.drop_table("reservation")
    op.drop_table("stock")
