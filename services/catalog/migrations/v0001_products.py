"""Products, and reservations of them."""

import sqlalchemy as sa
from alembic import op

from hauberk.services.database import Instant

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "products",
        sa.Column("sku", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("price", sa.BigInteger, nullable=False),
        sa.Column("stock", sa.BigInteger, nullable=False),
        sa.Column("updated_at", Instant, nullable=False),
        sa.CheckConstraint("stock >= 0", name="stock_is_not_negative"),
        sa.CheckConstraint("price > 0", name="price_is_positive"),
    )
    op.create_table(
        "reservations",
        sa.Column("reservation_id", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("currency", sa.String(3)),
        sa.Column("total", sa.BigInteger),
        sa.Column("updated_at", Instant, nullable=False),
    )
    op.create_table(
        "reservation_lines",
        sa.Column(
            "reservation_id", sa.String(64), sa.ForeignKey("reservations.reservation_id"), primary_key=True
        ),
        sa.Column("sku", sa.String(64), sa.ForeignKey("products.sku"), primary_key=True),
        sa.Column("quantity", sa.Integer, nullable=False),
        sa.CheckConstraint("quantity > 0", name="quantity_is_positive"),
    )
