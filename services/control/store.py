"""What the control plane must not forget: invitations, bindings, revocations, certificates issued.

Every method blocks on the database: call it through `errors.ask`. What two callers could race for is decided
in one transaction by one conditional statement. Announcements are kept by roster_store.py, in the same
database.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, insert, select, update

from hauberk.certs.errors import TokenExpired, TokenSpent, TokenUnknown
from hauberk.certs.identity import LeafIdentity, SpiffeId
from hauberk.certs.join import TokenRecord
from hauberk.services.control.errors import BoundElsewhere, NameRevoked, NotRevoked, NotYet
from hauberk.services.control.tables import (
    bindings,
    contracts,
    join_tokens,
    mesh,
    replicas,
    revocations,
    svids,
)
from hauberk.services.database import open_database, reading, upgrade

KEPT = timedelta(days=1)
"""How long a token or certificate is remembered after its end, so that a late refusal can still say why."""


class StoreMismatch(Exception):
    """A store that is not this mesh's; `str()` is one line that says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """A name that is refused everywhere, and why."""

    spiffe_id: SpiffeId
    reason: str
    revoked_by: str
    revoked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A name's certificates that are still valid: how many, and when the last of them ends."""

    spiffe_id: SpiffeId
    certificates: int
    until: datetime


class Store:
    """The control plane's memory. `now` is always aware UTC."""

    def __init__(self, engine: Engine) -> None:
        """Use `open`."""
        self.engine = engine

    @classmethod
    def open(cls, url: str) -> Self:
        """The store at `url`, brought to this build's form. Raises DatabaseError."""
        engine = open_database(url)
        try:
            upgrade(engine, "hauberk.services.control")
        except BaseException:
            engine.dispose()
            raise
        return cls(engine)

    def close(self) -> None:
        self.engine.dispose()

    def damage(self) -> str | None:
        """What is wrong with the file of an SQLite store, read whole; None if nothing is.

        SQLite itself notices a damaged page when it comes to it: perhaps in hours, at a renewal. 50,000
        certificates are read in 0.1 s. PostgreSQL looks after its own files.
        """
        if self.engine.dialect.name != "sqlite":
            return None
        with reading(self.engine) as connection:
            found = str(connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one())
        return None if found == "ok" else " ".join(found.split())

    def claim(self, mesh_id: str, trust_domain: str, *, new: bool) -> None:
        """Make sure this is the store of the mesh `mesh_id`; an empty one becomes it if `new`.

        Raises StoreMismatch: an emptied store must not pass for a new one, it has forgotten every revocation.
        """
        with self.engine.begin() as connection:
            found = connection.execute(select(mesh.c.mesh_id, mesh.c.trust_domain)).one_or_none()
            if found is None and new:
                connection.execute(insert(mesh).values(one=1, mesh_id=mesh_id, trust_domain=trust_domain))
            elif found is None:
                raise StoreMismatch(
                    f"the store is empty, but mesh {mesh_id} has had one: restore the database from a backup"
                )
            elif found.mesh_id != mesh_id:
                raise StoreMismatch(
                    f"the store is of mesh {found.mesh_id} ({found.trust_domain}), the CA of mesh {mesh_id}: "
                    f"give control the database and the CA folder that belong together"
                )

    def invite(self, record: TokenRecord, *, keep_bindings: bool, now: datetime) -> None:
        """Keep a token, and bind its name to exactly the contracts it serves unless `keep_bindings`.

        Raises NameRevoked, or BoundElsewhere if one of the contracts is another's.
        """
        with self.engine.begin() as connection:
            _check_not_revoked(connection, record.spiffe_id)
            if not keep_bindings:
                _bind(connection, record.spiffe_id, record.serves)
            connection.execute(delete(join_tokens).where(join_tokens.c.expires_at < now - KEPT))
            connection.execute(
                insert(join_tokens).values(
                    digest=record.digest, spiffe_id=str(record.spiffe_id), expires_at=record.expires_at
                )
            )

    def invited(self, digest: bytes, now: datetime) -> SpiffeId:
        """Whom the token names; spends nothing.

        Raises TokenUnknown, TokenSpent, TokenExpired or NameRevoked.
        """
        with reading(self.engine) as connection:
            spiffe_id = _check_token(connection, digest, now)
            _check_not_revoked(connection, spiffe_id)
            return spiffe_id

    def enrol(self, digest: bytes, leaf: LeafIdentity, now: datetime) -> None:
        """Spend the token for this certificate, which must not leave before: both are kept, or neither.

        Raises what `invited` raises. Of two that race for one token, one wins.
        """
        token = join_tokens.c
        usable = (token.digest == digest, token.spent_at.is_(None), token.expires_at > now)
        spend = (
            update(join_tokens).where(*usable, token.spiffe_id == str(leaf.spiffe_id)).values(spent_at=now)
        )
        with self.engine.begin() as connection:
            if connection.execute(spend).rowcount != 1:
                _check_token(connection, digest, now)
                raise TokenUnknown(f"join token is not for {leaf.spiffe_id}")
            _keep_issued(connection, leaf, now)

    def issued(self, leaf: LeafIdentity, now: datetime) -> None:
        """Keep a certificate that is about to leave. Raises NameRevoked, and then it must not."""
        with self.engine.begin() as connection:
            _keep_issued(connection, leaf, now)

    def holders(self, *, issued_before: datetime, now: datetime) -> list[Holder]:
        """Who has certificates issued before an instant that have not ended, in order; not the revoked."""
        revoked = select(revocations.c.spiffe_id)
        alive = (
            svids.c.issued_at < issued_before,
            svids.c.not_after > now,
            svids.c.spiffe_id.not_in(revoked),
        )
        with reading(self.engine) as connection:
            return _holders(connection, *alive)

    def revoke(self, revocation: Revocation) -> None:
        """Refuse this name from now on: its bindings and announcements go. A second time changes nothing."""
        name = str(revocation.spiffe_id)
        with self.engine.begin() as connection:
            known = connection.scalar(select(revocations.c.spiffe_id).where(revocations.c.spiffe_id == name))
            if known is None:
                connection.execute(
                    insert(revocations).values(
                        spiffe_id=name,
                        reason=revocation.reason,
                        revoked_by=revocation.revoked_by,
                        revoked_at=revocation.revoked_at,
                    )
                )
            for table in (bindings, contracts, replicas):
                connection.execute(delete(table).where(table.c.spiffe_id == name))

    def reinstate(self, spiffe_id: SpiffeId, now: datetime, *, lifetime: timedelta) -> None:
        """Refuse this name no longer; the join tokens it had are void.

        Raises NotRevoked, or NotYet while a certificate from before the revocation may be valid: it would be
        let in again, and whoever stole it with it. That is `lifetime` at least: a store that was restored
        does not know of those that were issued after its backup.
        """
        name = str(spiffe_id)
        with self.engine.begin() as connection:
            taken_back = delete(revocations).where(revocations.c.spiffe_id == name)
            revoked_at = connection.scalar(taken_back.returning(revocations.c.revoked_at))
            if revoked_at is None:
                raise NotRevoked(f"{spiffe_id} is not revoked")
            known = _holders(connection, svids.c.spiffe_id == name, svids.c.not_after > now)
            until = max([_full_second(revoked_at + lifetime), *(held.until for held in known)])
            if now < until:
                raise NotYet(
                    f"certificates of {spiffe_id} from before its revocation may still be valid: "
                    f"reinstate it after {until:%Y-%m-%dT%H:%M:%SZ}",
                    reason="OLD_SVID_VALID",
                )
            connection.execute(delete(join_tokens).where(join_tokens.c.spiffe_id == name))

    def revoked(self) -> frozenset[str]:
        """The SPIFFE IDs that are refused."""
        with reading(self.engine) as connection:
            return frozenset(connection.scalars(select(revocations.c.spiffe_id)))

    def bindings(self) -> Mapping[str, SpiffeId]:
        """Which name serves each contract."""
        with reading(self.engine) as connection:
            rows = connection.execute(select(bindings.c.contract, bindings.c.spiffe_id))
            return {contract: SpiffeId.parse(spiffe_id) for contract, spiffe_id in rows}


def _full_second(at: datetime) -> datetime:
    """The next one, as it is told: whoever comes then is not too early."""
    return at.replace(microsecond=0) + timedelta(seconds=1 if at.microsecond else 0)


def _holders(connection: Connection, *alive: ColumnElement[bool]) -> list[Holder]:
    name = svids.c.spiffe_id
    found = (
        select(name, func.count(), func.max(svids.c.not_after)).where(*alive).group_by(name).order_by(name)
    )
    return [
        Holder(spiffe_id=SpiffeId.parse(spiffe_id), certificates=count, until=until)
        for spiffe_id, count, until in connection.execute(found)
    ]


def _check_token(connection: Connection, digest: bytes, now: datetime) -> SpiffeId:
    token = connection.execute(select(join_tokens).where(join_tokens.c.digest == digest)).one_or_none()
    if token is None:
        raise TokenUnknown("join token was not minted here, or its time passed long ago")
    if token.spent_at is not None:
        raise TokenSpent(f"join token for {token.spiffe_id} was used at {token.spent_at:%Y-%m-%dT%H:%M:%SZ}")
    if now >= token.expires_at:
        raise TokenExpired(
            f"join token for {token.spiffe_id} expired at {token.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        )
    return SpiffeId.parse(token.spiffe_id)


def _check_not_revoked(connection: Connection, spiffe_id: SpiffeId) -> None:
    at = connection.scalar(select(revocations.c.revoked_at).where(revocations.c.spiffe_id == str(spiffe_id)))
    if at is not None:
        raise NameRevoked.at(spiffe_id, at)


def _keep_issued(connection: Connection, leaf: LeafIdentity, now: datetime) -> None:
    _check_not_revoked(connection, leaf.spiffe_id)
    connection.execute(delete(svids).where(svids.c.not_after < now - KEPT))
    connection.execute(
        insert(svids).values(
            serial=f"{leaf.serial:x}", spiffe_id=str(leaf.spiffe_id), issued_at=now, not_after=leaf.not_after
        )
    )


def _bind(connection: Connection, spiffe_id: SpiffeId, serves: Iterable[str]) -> None:
    """Bind `spiffe_id` to exactly these contracts; raises BoundElsewhere."""
    name, wanted = str(spiffe_id), frozenset(serves)
    rows = connection.execute(
        select(bindings).where(bindings.c.contract.in_(wanted) | (bindings.c.spiffe_id == name))
    )
    owners: dict[str, str] = {contract: owner for contract, owner in rows}  # noqa: C416 - rows are no tuples
    for contract in sorted(wanted & owners.keys()):
        if owners[contract] != name:
            raise BoundElsewhere(
                f"contract {contract} is bound to {owners[contract]}; to free it: hauberk invite "
                f"{SpiffeId.parse(owners[contract]).name}, with --serves for each contract it is to keep",
                metadata={"contract": contract, "bound_to": owners[contract]},
            )
    connection.execute(delete(bindings).where(bindings.c.contract.in_(owners.keys() - wanted)))
    if new := wanted - owners.keys():
        connection.execute(insert(bindings), [{"contract": contract, "spiffe_id": name} for contract in new])
