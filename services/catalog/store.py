"""The catalog's books: products and the reservations that hold some of them.

Synchronous: callers go through `asyncio.to_thread`. Every change is one short transaction. Locks are taken in
one order everywhere (the reservation, then products by SKU), so two transactions never wait for each other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

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
    select,
    update,
)

from hauberk.services.catalog.errors import (
    CurrenciesMixed,
    OutOfStock,
    ProductUnknown,
    ReservationDiffers,
    ReservationReleased,
    TotalTooLarge,
)
from hauberk.services.database import Instant, reading
from hauberk.services.insertion import insert_new
from hauberk.services.money import Money, MoneyError

metadata = MetaData()

products = Table(
    "products",
    metadata,
    Column("sku", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("price", BigInteger, nullable=False),
    Column("stock", BigInteger, nullable=False),
    Column("updated_at", Instant, nullable=False),
    CheckConstraint("stock >= 0", name="stock_is_not_negative"),
    CheckConstraint("price > 0", name="price_is_positive"),
)

reservations = Table(
    "reservations",
    metadata,
    Column("reservation_id", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    # Absent where it was released before it was made.
    Column("currency", String(3)),
    Column("total", BigInteger),
    Column("updated_at", Instant, nullable=False),
)

reservation_lines = Table(
    "reservation_lines",
    metadata,
    Column("reservation_id", String(64), ForeignKey("reservations.reservation_id"), primary_key=True),
    Column("sku", String(64), ForeignKey("products.sku"), primary_key=True),
    Column("quantity", Integer, nullable=False),
    CheckConstraint("quantity > 0", name="quantity_is_positive"),
)


class State(StrEnum):
    HELD = "held"
    RELEASED = "released"


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    sku: str
    name: str
    price: Money
    stock: int
    updated_at: datetime


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """So many of one product."""

    sku: str
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Goods held for an order. `lines` are in the order of their SKUs; no total where it never was held."""

    reservation_id: str
    state: State
    lines: tuple[Line, ...] = ()
    total: Money | None = None


class CatalogStore:
    """Products and reservations in one database; the engine stays its opener's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def product(self, sku: str) -> Product:
        """Raises ProductUnknown."""
        found = self.products([sku])
        if not found:
            raise ProductUnknown(sku)
        return found[0]

    def products(self, skus: Iterable[str]) -> list[Product]:
        """Those of the products that there are, in the order of their SKUs."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(products).where(products.c.sku.in_(set(skus))).order_by(products.c.sku)
            )
            return [_product(row) for row in rows]

    def page(self, *, after: str, limit: int) -> list[Product]:
        """At most `limit` products whose SKU comes after the given one; "" begins."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(products).where(products.c.sku > after).order_by(products.c.sku).limit(limit)
            )
            return [_product(row) for row in rows]

    def import_products(self, imported: Sequence[Product]) -> tuple[int, int]:
        """Add or replace all of them, or none; how many were added, and how many replaced."""
        added = 0
        with self._engine.begin() as connection:
            for product in sorted(imported, key=lambda each: each.sku):
                row = _row(product)
                if insert_new(connection, products, row):
                    added += 1
                else:
                    connection.execute(update(products).where(products.c.sku == product.sku).values(**row))
        return added, len(imported) - added

    def reserve(self, reservation_id: str, lines: Iterable[Line], *, now: datetime) -> Reservation:
        """Take the goods out of the stock, once; all or none.

        Raises ProductUnknown, OutOfStock, CurrenciesMixed, TotalTooLarge (nothing taken), ReservationDiffers,
        ReservationReleased.
        """
        wanted = tuple(sorted(lines))
        row = {"reservation_id": reservation_id, "state": State.HELD, "updated_at": now}
        with self._engine.begin() as connection:
            if not insert_new(connection, reservations, row):
                return _as_before(connection, reservation_id, wanted)
            total = _take(connection, wanted, now)
            connection.execute(
                update(reservations)
                .where(reservations.c.reservation_id == reservation_id)
                .values(currency=total.currency, total=total.minor_units)
            )
            connection.execute(
                reservation_lines.insert(),
                [{"reservation_id": reservation_id, "sku": w.sku, "quantity": w.quantity} for w in wanted],
            )
        return Reservation(reservation_id=reservation_id, state=State.HELD, lines=wanted, total=total)

    def release(self, reservation_id: str, *, now: datetime) -> Reservation:
        """Put the goods back, once.

        An unknown reservation is recorded as released, so that it cannot be made later: a reserve that was
        long on its way finds its order given up.
        """
        row = {"reservation_id": reservation_id, "state": State.RELEASED, "updated_at": now}
        with self._engine.begin() as connection:
            if insert_new(connection, reservations, row):
                return Reservation(reservation_id=reservation_id, state=State.RELEASED)
            held = connection.execute(
                update(reservations)
                .where(reservations.c.reservation_id == reservation_id, reservations.c.state == State.HELD)
                .values(state=State.RELEASED, updated_at=now)
            )
            reservation = _reservation(connection, reservation_id)
            if held.rowcount:
                _put_back(connection, reservation.lines, now)
            return reservation


def _take(connection: Connection, wanted: Sequence[Line], now: datetime) -> Money:
    """Lower the stock of each line's product, and what they cost together."""
    total: Money | None = None
    for line in wanted:
        row = connection.execute(
            update(products)
            .where(products.c.sku == line.sku, products.c.stock >= line.quantity)
            .values(stock=products.c.stock - line.quantity, updated_at=now)
            .returning(products.c.currency, products.c.price)
        ).one_or_none()
        if row is None:
            known = connection.execute(select(products.c.sku).where(products.c.sku == line.sku)).first()
            raise OutOfStock(line.sku) if known else ProductUnknown(line.sku)
        total = _added(total, Money(currency=row.currency, minor_units=row.price), line)
    if total is None:
        raise ValueError("a reservation of nothing")
    return total


def _added(total: Money | None, price: Money, line: Line) -> Money:
    if total is not None and total.currency != price.currency:
        raise CurrenciesMixed(line.sku)
    try:
        cost = price.times(line.quantity)
        return cost if total is None else total.plus(cost)
    except MoneyError:
        raise TotalTooLarge from None


def _put_back(connection: Connection, lines: Sequence[Line], now: datetime) -> None:
    for line in lines:
        connection.execute(
            update(products)
            .where(products.c.sku == line.sku)
            .values(stock=products.c.stock + line.quantity, updated_at=now)
        )


def _as_before(connection: Connection, reservation_id: str, wanted: tuple[Line, ...]) -> Reservation:
    reservation = _reservation(connection, reservation_id)
    if reservation.state is State.RELEASED:
        raise ReservationReleased(reservation_id)
    if reservation.lines != wanted:
        raise ReservationDiffers(reservation_id)
    return reservation


def _reservation(connection: Connection, reservation_id: str) -> Reservation:
    row = connection.execute(
        select(reservations).where(reservations.c.reservation_id == reservation_id)
    ).one()
    lines = connection.execute(
        select(reservation_lines.c.sku, reservation_lines.c.quantity).where(
            reservation_lines.c.reservation_id == reservation_id
        )
    )
    return Reservation(
        reservation_id=reservation_id,
        state=State(row.state),
        lines=tuple(sorted(Line(each.sku, each.quantity) for each in lines)),
        total=None if row.total is None else Money(currency=row.currency, minor_units=row.total),
    )


def _row(product: Product) -> dict[str, object]:
    return {
        "sku": product.sku,
        "name": product.name,
        "currency": product.price.currency,
        "price": product.price.minor_units,
        "stock": product.stock,
        "updated_at": product.updated_at,
    }


def _product(row: Row[tuple[object, ...]]) -> Product:
    return Product(
        sku=row.sku,
        name=row.name,
        price=Money(currency=row.currency, minor_units=row.price),
        stock=row.stock,
        updated_at=row.updated_at,
    )
