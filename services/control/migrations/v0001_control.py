"""Everything the control plane keeps."""

import sqlalchemy as sa
from alembic import op

from hauberk.services.database import Instant

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "mesh",
        sa.Column("one", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("mesh_id", sa.String(32), nullable=False),
        sa.Column("trust_domain", sa.Text, nullable=False),
    )
    op.create_table(
        "join_tokens",
        sa.Column("digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("spiffe_id", sa.Text, nullable=False),
        sa.Column("expires_at", Instant, nullable=False, index=True),
        sa.Column("spent_at", Instant),
    )
    op.create_table(
        "bindings",
        sa.Column("contract", sa.Text, primary_key=True),
        sa.Column("spiffe_id", sa.Text, nullable=False, index=True),
    )
    op.create_table(
        "revocations",
        sa.Column("spiffe_id", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("revoked_by", sa.Text, nullable=False),
        sa.Column("revoked_at", Instant, nullable=False),
    )
    op.create_table(
        "svids",
        sa.Column("serial", sa.String(40), primary_key=True),
        sa.Column("spiffe_id", sa.Text, nullable=False),
        sa.Column("issued_at", Instant, nullable=False),
        sa.Column("not_after", Instant, nullable=False, index=True),
    )
    op.create_table(
        "contracts",
        sa.Column("service", sa.Text, primary_key=True),
        sa.Column("spiffe_id", sa.Text, primary_key=True),
        sa.Column("descriptor", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "replicas",
        sa.Column("spiffe_id", sa.Text, primary_key=True),
        sa.Column("replica", sa.String(64), primary_key=True),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("svid_expires_at", Instant, nullable=False),
        sa.Column("contracts", sa.Text, nullable=False),
    )
