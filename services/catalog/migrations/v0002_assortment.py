"""The sample's first goods, once, so that a new shop has something to sell."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from hauberk.services.database import Instant

revision = "0002"
down_revision = "0001"

STOCK = 1_000_000
GOODS = (
    ("ANVIL-5KG", "Anvil, 5 kg", 14900),
    ("APRON-LEATHER", "Apron, leather", 6450),
    ("COAL-25KG", "Smithing coal, 25 kg", 2190),
    ("HAMMER-1KG", "Cross-peen hammer, 1 kg", 3275),
    ("RING-STEEL-1000", "Steel rings, 8 mm, box of 1000", 1899),
    ("RIVET-500", "Rivets, box of 500", 949),
    ("TONGS-FLAT", "Flat tongs", 2799),
    ("WIRE-STEEL-50M", "Spring steel wire, 1.2 mm, 50 m", 1299),
)


def upgrade() -> None:
    products = sa.table(
        "products",
        sa.column("sku", sa.String),
        sa.column("name", sa.String),
        sa.column("currency", sa.String),
        sa.column("price", sa.BigInteger),
        sa.column("stock", sa.BigInteger),
        sa.column("updated_at", Instant),
    )
    now = datetime.now(UTC)
    rows = [
        {"sku": sku, "name": name, "currency": "EUR", "price": price, "stock": STOCK, "updated_at": now}
        for sku, name, price in GOODS
    ]
    op.bulk_insert(products, rows)
