"""The payments' books: each payment once, and the one way its state can go.

    authorised -> captured -> refunded      refused at once: declined
    authorised -> refunded                  refunded before it was known: barred

Synchronous: callers go through `asyncio.to_thread`. Every change is one short transaction on one row.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Engine,
    MetaData,
    Row,
    String,
    Table,
    select,
    update,
)

from hauberk.services.database import Instant, reading
from hauberk.services.insertion import insert_new
from hauberk.services.money import Money
from hauberk.services.payments.errors import (
    Declined,
    GivenBack,
    NotAuthorised,
    PaymentDiffers,
    PaymentUnknown,
)

metadata = MetaData()

payments = Table(
    "payments",
    metadata,
    Column("payment_id", String(64), primary_key=True),
    # Absent where it was refunded before it was known.
    Column("customer", String(64)),
    Column("currency", String(3)),
    Column("amount", BigInteger),
    Column("state", String(16), nullable=False),
    # Why it was declined.
    Column("decline", String(200)),
    Column("updated_at", Instant, nullable=False),
    CheckConstraint("amount > 0", name="amount_is_positive"),
    CheckConstraint("state = 'barred' OR amount IS NOT NULL", name="amount_is_known"),
)


class State(StrEnum):
    AUTHORISED = "authorised"
    CAPTURED = "captured"
    REFUNDED = "refunded"
    DECLINED = "declined"
    BARRED = "barred"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    payment_id: str
    customer: str
    amount: Money
    state: State
    updated_at: datetime


class PaymentStore:
    """Payments in one database; the engine stays its opener's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def payment(self, payment_id: str) -> Payment:
        """Raises PaymentUnknown, also for an id that is only barred."""
        with reading(self._engine) as connection:
            row = _row(connection, payment_id)
        if row is None or row.state == State.BARRED:
            raise PaymentUnknown(payment_id)
        return _payment(row)

    def authorise(
        self, payment_id: str, customer: str, amount: Money, *, decline: str | None, now: datetime
    ) -> Payment:
        """Record the amount as set aside, or as declined for the reason given; the first record holds.

        Raises Declined, PaymentDiffers, GivenBack.
        """
        with self._engine.begin() as connection:
            insert_new(
                connection,
                payments,
                {
                    "payment_id": payment_id,
                    "customer": customer,
                    "currency": amount.currency,
                    "amount": amount.minor_units,
                    "state": State.AUTHORISED if decline is None else State.DECLINED,
                    "decline": decline,
                    "updated_at": now,
                },
            )
            row = _row(connection, payment_id)
        if row is None or row.state == State.BARRED:
            raise GivenBack(payment_id)
        payment = _payment(row)
        if (payment.customer, payment.amount) != (customer, amount):
            raise PaymentDiffers(payment_id)
        if payment.state is State.DECLINED:
            raise Declined(row.decline)
        if payment.state is State.REFUNDED:
            raise GivenBack(payment_id)
        return payment

    def capture(self, payment_id: str, *, now: datetime) -> Payment:
        """Take what was set aside, once. Raises NotAuthorised, GivenBack."""
        with self._engine.begin() as connection:
            _move(connection, payment_id, {State.AUTHORISED}, State.CAPTURED, now)
            row = _row(connection, payment_id)
        if row is None or row.state == State.DECLINED:
            raise NotAuthorised(payment_id)
        if row.state in {State.REFUNDED, State.BARRED}:
            raise GivenBack(payment_id)
        return _payment(row)

    def refund(self, payment_id: str, *, now: datetime) -> Payment:
        """Give back what was set aside or taken, once; nothing to give back where it was declined.

        Raises PaymentUnknown, after the id is barred: an authorisation that was long on its way finds its
        order given up.
        """
        with self._engine.begin() as connection:
            barred = {"payment_id": payment_id, "state": State.BARRED, "updated_at": now}
            if not insert_new(connection, payments, barred):
                _move(connection, payment_id, {State.AUTHORISED, State.CAPTURED}, State.REFUNDED, now)
            row = _row(connection, payment_id)
        if row is None or row.state == State.BARRED:
            raise PaymentUnknown(payment_id)
        return _payment(row)


def _move(connection: Connection, payment_id: str, before: set[State], after: State, now: datetime) -> None:
    connection.execute(
        update(payments)
        .where(payments.c.payment_id == payment_id, payments.c.state.in_(before))
        .values(state=after, updated_at=now)
    )


def _row(connection: Connection, payment_id: str) -> Row[tuple[object, ...]] | None:
    return connection.execute(select(payments).where(payments.c.payment_id == payment_id)).one_or_none()


def _payment(row: Row[tuple[object, ...]]) -> Payment:
    return Payment(
        payment_id=row.payment_id,
        customer=row.customer,
        amount=Money(currency=row.currency, minor_units=row.amount),
        state=State(row.state),
        updated_at=row.updated_at,
    )
