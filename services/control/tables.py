"""The tables of the control plane's store, as its newest migration leaves them."""

from sqlalchemy import Column, Integer, LargeBinary, MetaData, String, Table, Text

from hauberk.services.database import Instant

metadata = MetaData()

mesh = Table(
    "mesh",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),  # always 1: there is one row
    Column("mesh_id", String(32), nullable=False),
    Column("trust_domain", Text, nullable=False),
)

join_tokens = Table(
    "join_tokens",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),  # the token itself is nowhere
    Column("spiffe_id", Text, nullable=False),
    Column("expires_at", Instant, nullable=False, index=True),
    Column("spent_at", Instant),
)

# The primary key is the rule: a contract is served by one name.
bindings = Table(
    "bindings",
    metadata,
    Column("contract", Text, primary_key=True),
    Column("spiffe_id", Text, nullable=False, index=True),
)

revocations = Table(
    "revocations",
    metadata,
    Column("spiffe_id", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("revoked_by", Text, nullable=False),
    Column("revoked_at", Instant, nullable=False),
)

svids = Table(
    "svids",
    metadata,
    Column("serial", String(40), primary_key=True),  # hex
    Column("spiffe_id", Text, nullable=False),
    Column("issued_at", Instant, nullable=False),
    Column("not_after", Instant, nullable=False, index=True),
)

contracts = Table(
    "contracts",
    metadata,
    Column("service", Text, primary_key=True),
    Column("spiffe_id", Text, primary_key=True),
    Column("descriptor", LargeBinary, nullable=False),  # FileDescriptorSet of this service alone
)

replicas = Table(
    "replicas",
    metadata,
    Column("spiffe_id", Text, primary_key=True),
    Column("replica", String(64), primary_key=True),
    Column("address", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("agent", Text, nullable=False),
    Column("svid_expires_at", Instant, nullable=False),
    Column("contracts", Text, nullable=False),  # the services' full names, one a line
)

overrides = Table(
    "overrides",
    metadata,
    Column("method", Text, primary_key=True),
    Column("override", LargeBinary, nullable=False),  # hauberk.policy.v1.Override
    Column("changed_by", Text, nullable=False),
    Column("changed_at", Instant, nullable=False),
)
