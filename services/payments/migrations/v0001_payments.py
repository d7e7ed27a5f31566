"""Payments."""

import sqlalchemy as sa
from alembic import op

from hauberk.services.database import Instant

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "payments",
        sa.Column("payment_id", sa.String(64), primary_key=True),
        sa.Column("customer", sa.String(64)),
        sa.Column("currency", sa.String(3)),
        sa.Column("amount", sa.BigInteger),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("decline", sa.String(200)),
        sa.Column("updated_at", Instant, nullable=False),
        sa.CheckConstraint("amount > 0", name="amount_is_positive"),
        sa.CheckConstraint("state = 'barred' OR amount IS NOT NULL", name="amount_is_known"),
    )
