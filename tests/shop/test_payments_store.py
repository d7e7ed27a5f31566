"""What the payments' books promise, on both engines."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine

from hauberk.services.money import LARGEST, Money
from hauberk.services.payments.errors import (
    Declined,
    GivenBack,
    NotAuthorised,
    PaymentDiffers,
    PaymentUnknown,
)
from hauberk.services.payments.store import Payment, PaymentStore, State, metadata
from tests.shop.stage import OpenEngine

NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
TEN = Money(currency="EUR", minor_units=1000)


@pytest.fixture
def engine(engine_of: OpenEngine) -> Engine:
    return engine_of("payments")


@pytest.fixture
def store(engine: Engine) -> PaymentStore:
    return PaymentStore(engine)


def authorise(
    store: PaymentStore, customer: str = "ann", amount: Money = TEN, decline: str | None = None
) -> Payment:
    return store.authorise("p1", customer, amount, decline=decline, now=NOW)


def test_the_migrations_make_the_tables_the_store_uses(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "payments_alembic_version"})
        assert compare_metadata(context, metadata) == []


def test_an_amount_is_set_aside_then_taken_then_given_back(store: PaymentStore) -> None:
    assert authorise(store).state is State.AUTHORISED
    assert store.capture("p1", now=NOW).state is State.CAPTURED
    refunded = store.refund("p1", now=LATER)
    assert refunded == store.payment("p1")
    assert (refunded.state, refunded.amount, refunded.updated_at) == (State.REFUNDED, TEN, LATER)


def test_the_largest_amount_is_kept_exactly(store: PaymentStore) -> None:
    amount = Money(currency="EUR", minor_units=LARGEST)
    assert authorise(store, amount=amount) == store.payment("p1")
    assert store.payment("p1").amount == amount


def test_each_step_may_be_repeated(store: PaymentStore) -> None:
    assert authorise(store) == authorise(store)
    captured = store.capture("p1", now=NOW)
    assert store.capture("p1", now=LATER) == captured
    assert authorise(store) == captured
    refunded = store.refund("p1", now=NOW)
    assert store.refund("p1", now=LATER) == refunded


def test_what_was_only_set_aside_can_be_given_back(store: PaymentStore) -> None:
    authorise(store)
    assert store.refund("p1", now=NOW).state is State.REFUNDED


@pytest.mark.parametrize(
    "again",
    [
        lambda store: authorise(store, customer="bob"),
        lambda store: authorise(store, amount=TEN.times(2)),
        lambda store: authorise(store, amount=Money(currency="USD", minor_units=1000)),
    ],
)
def test_another_amount_or_customer_under_the_same_id_is_refused(
    store: PaymentStore, again: Callable[[PaymentStore], Payment]
) -> None:
    before = authorise(store)
    with pytest.raises(PaymentDiffers):
        again(store)
    assert store.payment("p1") == before


def test_a_declined_payment_stays_declined(store: PaymentStore) -> None:
    for decline in ("no money", None):
        with pytest.raises(Declined, match="no money"):
            authorise(store, decline=decline)
    assert store.payment("p1").state is State.DECLINED


def test_a_declined_payment_cannot_be_taken_and_leaves_nothing_to_give_back(store: PaymentStore) -> None:
    with pytest.raises(Declined):
        authorise(store, decline="no money")
    with pytest.raises(NotAuthorised):
        store.capture("p1", now=NOW)
    assert store.refund("p1", now=NOW).state is State.DECLINED


def test_nothing_is_taken_that_was_not_set_aside(store: PaymentStore) -> None:
    with pytest.raises(NotAuthorised):
        store.capture("p1", now=NOW)


def test_nothing_is_taken_that_was_given_back(store: PaymentStore) -> None:
    authorise(store)
    store.refund("p1", now=NOW)
    with pytest.raises(GivenBack):
        store.capture("p1", now=NOW)
    with pytest.raises(GivenBack):
        authorise(store)


def test_a_refund_that_comes_first_finds_nothing_and_bars_the_payment(store: PaymentStore) -> None:
    for _ in range(2):
        with pytest.raises(PaymentUnknown):
            store.refund("p1", now=NOW)
    with pytest.raises(GivenBack):
        authorise(store)
    with pytest.raises(GivenBack):
        store.capture("p1", now=NOW)
    with pytest.raises(PaymentUnknown):
        store.payment("p1")


def test_capture_and_refund_at_the_same_time_end_given_back(store: PaymentStore) -> None:
    def capture(payment_id: str) -> None:
        with suppress(GivenBack):
            store.capture(payment_id, now=NOW)

    payments = [f"p{number}" for number in range(12)]
    for payment_id in payments:
        store.authorise(payment_id, "ann", TEN, decline=None, now=NOW)
    with ThreadPoolExecutor(8) as crowd:
        for payment_id in payments:
            crowd.submit(capture, payment_id)
            crowd.submit(store.refund, payment_id, now=NOW)
    assert {store.payment(payment_id).state for payment_id in payments} == {State.REFUNDED}


def test_a_refund_racing_with_its_authorisation_leaves_nothing_set_aside(store: PaymentStore) -> None:
    def authorise_it(payment_id: str) -> None:
        with suppress(GivenBack):
            store.authorise(payment_id, "ann", TEN, decline=None, now=NOW)

    def refund(payment_id: str) -> None:
        with suppress(PaymentUnknown):
            store.refund(payment_id, now=NOW)

    payments = [f"p{number}" for number in range(12)]
    with ThreadPoolExecutor(8) as crowd:
        for payment_id in payments:
            crowd.submit(authorise_it, payment_id)
            crowd.submit(refund, payment_id)
    for payment_id in payments:
        with pytest.raises(GivenBack):
            store.capture(payment_id, now=NOW)
