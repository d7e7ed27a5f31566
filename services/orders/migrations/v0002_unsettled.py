"""An index of the orders that are not final: the few among many that recovery looks for."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

UNSETTLED = sa.text("stage NOT IN ('placed', 'failed')")


def upgrade() -> None:
    op.create_index(
        "orders_unsettled",
        "orders",
        ["claimed_until"],
        sqlite_where=UNSETTLED,
        postgresql_where=UNSETTLED,
    )
