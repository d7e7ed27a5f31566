"""The orders' books: each order once per idempotency key, and how far it has come.

    new -> reserved -> authorised -> charged -> placed
      `---------`----------`-- with a failure recorded -> failed

Who works on an order holds a claim on it, a lease that each record extends (see lease.py). Every change is
conditional on the claim and on the stage it starts from, so a worker that slept through its claim changes
nothing any more. An order that is not final, and that nobody has a living claim on, is abandoned.
Synchronous: callers go through `asyncio.to_thread`. Every change is one short transaction.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Connection,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    and_,
    or_,
    select,
    text,
    update,
)

from hauberk.services.database import Instant, reading
from hauberk.services.insertion import insert_new
from hauberk.services.money import Money
from hauberk.services.orders.errors import ClaimLost, KeyTaken, OrderUnknown
from hauberk.services.orders.lease import LEASE, run_out, shared_clock

UNSETTLED = text("stage NOT IN ('placed', 'failed')")
"""In these very words in the index and in what looks for it: SQLite takes an index of some rows only then."""

metadata = MetaData()

orders = Table(
    "orders",
    metadata,
    Column("order_id", String(64), primary_key=True),
    Column("idempotency_key", String(64), nullable=False, unique=True),
    Column("customer", String(64), nullable=False),
    # Known once the goods are reserved.
    Column("currency", String(3)),
    Column("total", BigInteger),
    Column("stage", String(16), nullable=False),
    # Decided when `failure_reason` is there; final only when the stage says so.
    Column("failure_reason", String(64)),
    Column("failure", String(400)),
    Column("claimed_by", String(32)),
    Column("claimed_until", Instant),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Index("orders_unsettled", "claimed_until", sqlite_where=UNSETTLED, postgresql_where=UNSETTLED),
)

order_lines = Table(
    "order_lines",
    metadata,
    Column("order_id", String(64), ForeignKey("orders.order_id"), primary_key=True),
    Column("sku", String(64), primary_key=True),
    Column("quantity", Integer, nullable=False),
    CheckConstraint("quantity > 0", name="quantity_is_positive"),
)


class Stage(StrEnum):
    NEW = "new"
    RESERVED = "reserved"
    AUTHORISED = "authorised"
    CHARGED = "charged"
    PLACED = "placed"
    FAILED = "failed"


FINAL = frozenset({Stage.PLACED, Stage.FAILED})


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """So many of one product."""

    sku: str
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an order comes to nothing: `reason` for programs (UPPER_SNAKE), `message` for people."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What a customer asks for. `lines` are in the order of their SKUs."""

    idempotency_key: str
    customer: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order as recorded. With a failure but not final it is being undone."""

    order_id: str
    placement: Placement
    stage: Stage
    created_at: datetime
    updated_at: datetime
    total: Money | None = None
    failure: Failure | None = None

    @property
    def final(self) -> bool:
        return self.stage in FINAL


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on one order; nobody else holds its `owner`."""

    owner: str


class OrderStore:
    """Orders in one database; the engine stays its opener's. `lease` is how long claims last."""

    def __init__(self, engine: Engine, *, lease: timedelta = LEASE) -> None:
        self._engine = engine
        self.lease = lease

    def order(self, order_id: str) -> Order:
        """Raises OrderUnknown."""
        with reading(self._engine) as connection:
            row = connection.execute(select(orders).where(orders.c.order_id == order_id)).one_or_none()
            if row is None:
                raise OrderUnknown(order_id)
            return _order(connection, row)

    def open(self, placement: Placement, *, now: datetime) -> tuple[Order, Claim | None]:
        """The order of the placement's key, new or not, claimed if it is not final and nobody works on it.

        Raises KeyTaken if the key's order is another one.
        """
        claim = Claim(uuid4().hex)
        with self._engine.begin() as connection:
            leased = self._leased(connection, claim, now)
            claimed = _insert(connection, placement, leased, now) or _claim(
                connection, placement.idempotency_key, leased, now
            )
            row = connection.execute(
                select(orders).where(orders.c.idempotency_key == placement.idempotency_key)
            ).one()
            order = _order(connection, row)
            if order.placement != placement:
                raise KeyTaken(placement.idempotency_key)
        return order, claim if claimed else None

    def advance(
        self, order: Order, claim: Claim, stage: Stage, *, now: datetime, total: Money | None = None
    ) -> Order:
        """Record the order's next stage, and extend the claim. Raises ClaimLost, and nothing is changed."""
        later = replace(order, stage=stage, total=total or order.total, updated_at=now)
        self._change(order, claim, later, now=now)
        return later

    def fail(self, order: Order, claim: Claim, failure: Failure, *, now: datetime) -> Order:
        """Record that the order will come to nothing, before anything of it is undone. Raises ClaimLost."""
        later = replace(order, failure=failure, updated_at=now)
        self._change(order, claim, later, now=now)
        return later

    def take(self, *, now: datetime) -> tuple[Order, Claim] | None:
        """The order that has been abandoned longest, claimed; None if there is none. No two get the same."""
        claim = Claim(uuid4().hex)
        with self._engine.begin() as connection:
            abandoned = and_(UNSETTLED, run_out(connection, orders.c.claimed_until, now))
            first = (
                select(orders.c.order_id)
                .where(abandoned)
                .order_by(orders.c.claimed_until.nulls_first())
                .limit(1)
                .with_for_update(skip_locked=True)
                .correlate(None)
                .scalar_subquery()
            )
            row = connection.execute(
                update(orders)
                .where(orders.c.order_id == first, abandoned)
                .values(self._leased(connection, claim, now))
                .returning(*orders.c)
            ).one_or_none()
            return None if row is None else (_order(connection, row), claim)

    def renew(self, order: Order, claim: Claim, *, now: datetime) -> None:
        """Extend the claim, if it is still ours."""
        with self._engine.begin() as connection:
            connection.execute(
                update(orders)
                .where(_held(order, claim), UNSETTLED)
                .values(self._leased(connection, claim, now))
            )

    def leave(self, order: Order, claim: Claim, *, now: datetime, rest: timedelta = timedelta(0)) -> None:
        """Give the claim up: whoever asks for the order may work on it at once, recovery after `rest`."""
        with self._engine.begin() as connection:
            until = shared_clock(connection, now, rest) if rest else None
            connection.execute(
                update(orders).where(_held(order, claim)).values(claimed_by=None, claimed_until=until)
            )

    def _change(self, order: Order, claim: Claim, later: Order, *, now: datetime) -> None:
        values: dict[str, Any] = {
            "stage": later.stage,
            "currency": later.total and later.total.currency,
            "total": later.total and later.total.minor_units,
            "failure_reason": later.failure and later.failure.reason,
            "failure": later.failure and later.failure.message,
            "updated_at": now,
        }
        with self._engine.begin() as connection:
            values |= self._leased(connection, claim, now)
            changed = connection.execute(
                update(orders)
                .where(
                    _held(order, claim),
                    orders.c.stage == order.stage,
                    orders.c.failure_reason.is_not_distinct_from(order.failure and order.failure.reason),
                )
                .values(**values)
            )
        if changed.rowcount != 1:
            raise ClaimLost(order.order_id)

    def _leased(self, connection: Connection, claim: Claim, now: datetime) -> dict[str, Any]:
        """What stands in the order while the claim is held."""
        return {"claimed_by": claim.owner, "claimed_until": shared_clock(connection, now, self.lease)}


def _held(order: Order, claim: Claim) -> ColumnElement[bool]:
    return and_(orders.c.order_id == order.order_id, orders.c.claimed_by == claim.owner)


def _insert(connection: Connection, placement: Placement, leased: Mapping[str, Any], now: datetime) -> bool:
    order_id = uuid4().hex
    row = {
        "order_id": order_id,
        "idempotency_key": placement.idempotency_key,
        "customer": placement.customer,
        "stage": Stage.NEW,
        "created_at": now,
        "updated_at": now,
        **leased,
    }
    if not insert_new(connection, orders, row):
        return False
    connection.execute(order_lines.insert(), _line_rows(order_id, placement.lines))
    return True


def _line_rows(order_id: str, lines: Iterable[Line]) -> list[dict[str, object]]:
    return [{"order_id": order_id, "sku": line.sku, "quantity": line.quantity} for line in lines]


def _claim(connection: Connection, key: str, leased: Mapping[str, Any], now: datetime) -> bool:
    claimed = connection.execute(
        update(orders)
        .where(
            orders.c.idempotency_key == key,
            UNSETTLED,
            or_(orders.c.claimed_by.is_(None), run_out(connection, orders.c.claimed_until, now)),
        )
        .values(**leased)
    )
    return claimed.rowcount == 1


def _order(connection: Connection, row: Row[tuple[object, ...]]) -> Order:
    lines = connection.execute(
        select(order_lines.c.sku, order_lines.c.quantity).where(order_lines.c.order_id == row.order_id)
    )
    placement = Placement(
        idempotency_key=row.idempotency_key,
        customer=row.customer,
        lines=tuple(sorted(Line(each.sku, each.quantity) for each in lines)),
    )
    return Order(
        order_id=row.order_id,
        placement=placement,
        stage=Stage(row.stage),
        created_at=row.created_at,
        updated_at=row.updated_at,
        total=None if row.total is None else Money(currency=row.currency, minor_units=row.total),
        failure=None
        if row.failure_reason is None
        else Failure(reason=row.failure_reason, message=row.failure),
    )
