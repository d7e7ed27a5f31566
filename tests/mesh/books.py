"""The three databases of the shop held against each other: what is in one must be in the others, exactly."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Table, create_engine, make_url, select

from hauberk.cli.state import State
from hauberk.services.catalog.store import products, reservation_lines, reservations
from hauberk.services.orders.store import order_lines, orders
from hauberk.services.payments.store import payments

Lines = Mapping[str, int]
"""Quantities by SKU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Everything that catalog, orders and payments have written down."""

    orders: Mapping[str, Any]
    order_lines: Mapping[str, Lines]
    reservations: Mapping[str, Any]
    reserved_lines: Mapping[str, Lines]
    payments: Mapping[str, Any]
    stock: Mapping[str, int]

    @classmethod
    def read(cls, *, catalog: str, orders_url: str, payments_url: str) -> "Books":
        """From the databases at these URLs, whether their services run or not."""
        in_catalog, in_orders, in_payments = map(_engine, (catalog, orders_url, payments_url))
        try:
            return cls(
                orders={row.order_id: row for row in _rows(in_orders, orders)},
                order_lines=_lines(_rows(in_orders, order_lines), "order_id"),
                reservations={row.reservation_id: row for row in _rows(in_catalog, reservations)},
                reserved_lines=_lines(_rows(in_catalog, reservation_lines), "reservation_id"),
                payments={row.payment_id: row for row in _rows(in_payments, payments)},
                stock={row.sku: row.stock for row in _rows(in_catalog, products)},
            )
        finally:
            for engine in (in_catalog, in_orders, in_payments):
                engine.dispose()

    @classmethod
    def of(cls, state: State) -> "Books":
        """Those of a shop that `hauberk up` runs on SQLite."""
        urls = {name: state.database_url(name) for name in ("catalog", "orders", "payments")}
        return cls.read(catalog=urls["catalog"], orders_url=urls["orders"], payments_url=urls["payments"])

    @property
    def unsettled(self) -> list[str]:
        """Orders that are neither placed nor failed yet."""
        return [
            order_id for order_id, order in self.orders.items() if order.stage not in ("placed", "failed")
        ]

    def wrongs(self, *, stocked: Lines, acknowledged: Collection[str]) -> list[str]:
        """What is lost, doubled or half done, a line each; none if all is exact.

        `stocked` is what there was of each product before the first order, `acknowledged` the orders whose
        placement a caller was told.
        """
        return [
            *(
                f"order {each} was acknowledged, and is lost"
                for each in acknowledged
                if each not in self.orders
            ),
            *(f"order {each} is not settled" for each in self.unsettled),
            *self._orders(frozenset(acknowledged)),
            *self._keys(),
            *self._strays(),
            *self._stock(stocked),
        ]

    def _orders(self, acknowledged: frozenset[str]) -> Iterator[str]:
        for order_id, order in self.orders.items():
            reservation, payment = self.reservations.get(order_id), self.payments.get(order_id)
            reserved = reservation.state if reservation is not None else None
            paid = payment.state if payment is not None else None
            if order.stage == "placed":
                if reserved != "held" or self.reserved_lines.get(order_id) != self.order_lines[order_id]:
                    yield f"order {order_id} is placed, and its goods are not held: {reserved}"
                amount = (payment.currency, payment.amount) if payment is not None else None
                if paid != "captured" or amount != (order.currency, order.total):
                    yield f"order {order_id} is placed, and its money is not taken: {paid}"
            elif order.stage == "failed":
                if order_id in acknowledged:
                    yield f"order {order_id} was acknowledged, and has failed"
                if reserved == "held":
                    yield f"order {order_id} has failed, and holds its goods"
                if paid in ("authorised", "captured"):
                    yield f"order {order_id} has failed, and its money is {paid}"

    def _keys(self) -> Iterator[str]:
        for key, count in Counter(order.idempotency_key for order in self.orders.values()).items():
            if count > 1:
                yield f"{count} orders have the key {key}"

    def _strays(self) -> Iterator[str]:
        """Goods or money without an order."""
        for reservation_id, reservation in self.reservations.items():
            if reservation.state == "held" and reservation_id not in self.orders:
                yield f"goods are held for an order that nobody knows: {reservation_id}"
        for payment_id, payment in self.payments.items():
            if payment.state in ("authorised", "captured") and payment_id not in self.orders:
                yield f"money is {payment.state} for an order that nobody knows: {payment_id}"

    def _stock(self, stocked: Lines) -> Iterator[str]:
        held: Counter[str] = Counter()
        for reservation_id, lines in self.reserved_lines.items():
            if self.reservations[reservation_id].state == "held":
                held.update(lines)
        for sku, before in stocked.items():
            if self.stock[sku] != before - held[sku]:
                yield f"{before} of {sku} less {held[sku]} held is not {self.stock[sku]}"


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    return create_engine(
        parsed.set(drivername="postgresql+psycopg") if parsed.get_backend_name() == "postgresql" else parsed
    )


def _rows(engine: Engine, table: Table) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(select(table)))


def _lines(rows: list[Any], key: str) -> Mapping[str, Lines]:
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        found[getattr(row, key)][row.sku] = row.quantity
    return found
