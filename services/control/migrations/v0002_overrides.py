"""What operators demand in place of contracts."""

import sqlalchemy as sa
from alembic import op

from hauberk.services.database import Instant

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "overrides",
        sa.Column("method", sa.Text, primary_key=True),
        sa.Column("override", sa.LargeBinary, nullable=False),
        sa.Column("changed_by", sa.Text, nullable=False),
        sa.Column("changed_at", Instant, nullable=False),
    )
