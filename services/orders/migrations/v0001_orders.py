"""Orders and their lines."""

import sqlalchemy as sa
from alembic import op

from hauberk.services.database import Instant

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("order_id", sa.String(64), primary_key=True),
        sa.Column("idempotency_key", sa.String(64), nullable=False, unique=True),
        sa.Column("customer", sa.String(64), nullable=False),
        sa.Column("currency", sa.String(3)),
        sa.Column("total", sa.BigInteger),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("failure_reason", sa.String(64)),
        sa.Column("failure", sa.String(400)),
        sa.Column("claimed_by", sa.String(32)),
        sa.Column("claimed_until", Instant),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("updated_at", Instant, nullable=False),
    )
    op.create_table(
        "order_lines",
        sa.Column("order_id", sa.String(64), sa.ForeignKey("orders.order_id"), primary_key=True),
        sa.Column("sku", sa.String(64), primary_key=True),
        sa.Column("quantity", sa.Integer, nullable=False),
        sa.CheckConstraint("quantity > 0", name="quantity_is_positive"),
    )
