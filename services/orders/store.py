"""The orders' books: each order once per idempotency key, and how far it has come.

    new -> reserved -> authorised -> charged -> placed
      `---------`----------`-- with a failure recorded -> failed

Who works on an order holds a claim on it, for a time that each record extends. Every change is conditional on
the claim and on the stage it starts from, so a worker that slept through its claim changes nothing any more.
Synchronous: callers go through `asyncio.to_thread`. Every change is one short transaction.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    or_,
    select,
    update,
)

from hauberk.services.database import Instant, reading
from hauberk.services.insertion import insert_new
from hauberk.services.money import Money
from hauberk.services.orders.errors import ClaimLost, KeyTaken, OrderUnknown

CLAIM = timedelta(seconds=15)
"""Longer than the longest call and what it takes to undo it; see servicer.LONGEST_S and saga.UNDO_S."""

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
    """Orders in one database; the engine stays its opener's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

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
            if _insert(connection, placement, claim, now):
                claimed = True
            else:
                claimed = _claim(connection, placement.idempotency_key, claim, now)
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

    def leave(self, order: Order, claim: Claim) -> None:
        """Give the claim up, so that the next who asks need not wait for its end."""
        with self._engine.begin() as connection:
            connection.execute(
                update(orders)
                .where(orders.c.order_id == order.order_id, orders.c.claimed_by == claim.owner)
                .values(claimed_by=None, claimed_until=None)
            )

    def _change(self, order: Order, claim: Claim, later: Order, *, now: datetime) -> None:
        values: dict[str, Any] = {
            "stage": later.stage,
            "currency": later.total and later.total.currency,
            "total": later.total and later.total.minor_units,
            "failure_reason": later.failure and later.failure.reason,
            "failure": later.failure and later.failure.message,
            "updated_at": now,
            "claimed_until": now + CLAIM,
        }
        with self._engine.begin() as connection:
            changed = connection.execute(
                update(orders)
                .where(
                    orders.c.order_id == order.order_id,
                    orders.c.stage == order.stage,
                    orders.c.failure_reason.is_not_distinct_from(order.failure and order.failure.reason),
                    orders.c.claimed_by == claim.owner,
                )
                .values(**values)
            )
        if changed.rowcount != 1:
            raise ClaimLost(order.order_id)


def _insert(connection: Connection, placement: Placement, claim: Claim, now: datetime) -> bool:
    order_id = uuid4().hex
    row = {
        "order_id": order_id,
        "idempotency_key": placement.idempotency_key,
        "customer": placement.customer,
        "stage": Stage.NEW,
        "claimed_by": claim.owner,
        "claimed_until": now + CLAIM,
        "created_at": now,
        "updated_at": now,
    }
    if not insert_new(connection, orders, row):
        return False
    connection.execute(order_lines.insert(), _line_rows(order_id, placement.lines))
    return True


def _line_rows(order_id: str, lines: Iterable[Line]) -> list[dict[str, object]]:
    return [{"order_id": order_id, "sku": line.sku, "quantity": line.quantity} for line in lines]


def _claim(connection: Connection, key: str, claim: Claim, now: datetime) -> bool:
    claimed = connection.execute(
        update(orders)
        .where(
            orders.c.idempotency_key == key,
            orders.c.stage.not_in(FINAL),
            or_(orders.c.claimed_by.is_(None), orders.c.claimed_until < now),
        )
        .values(claimed_by=claim.owner, claimed_until=now + CLAIM)
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
