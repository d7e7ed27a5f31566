"""What the orders' books promise, on both engines."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine

from hauberk.services.money import Money
from hauberk.services.orders.errors import ClaimLost, KeyTaken, OrderUnknown
from hauberk.services.orders.lease import LEASE
from hauberk.services.orders.store import (
    Claim,
    Failure,
    Line,
    Order,
    OrderStore,
    Placement,
    Stage,
    metadata,
)
from tests.shop.stage import OpenEngine, pass_time

NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
TEN = Money(currency="EUR", minor_units=1000)
WANTED = Placement(idempotency_key="k1", customer="ann", lines=(Line("A", 1), Line("B", 2)))
FAILURE = Failure(reason="OUT_OF_STOCK", message="not enough left of A")


@pytest.fixture
def engine(engine_of: OpenEngine) -> Engine:
    return engine_of("orders")


@pytest.fixture
def store(engine: Engine) -> OrderStore:
    return OrderStore(engine)


def opened(store: OrderStore, placement: Placement = WANTED, now: datetime = NOW) -> tuple[Order, Claim]:
    order, claim = store.open(placement, now=now)
    assert claim is not None
    return order, claim


def test_the_migrations_make_the_tables_the_store_uses(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "orders_alembic_version"})
        assert compare_metadata(context, metadata) == []


def test_an_order_is_kept_as_it_was_asked_for(store: OrderStore) -> None:
    order, _ = opened(store)
    assert (order.placement, order.stage, order.total, order.failure) == (WANTED, Stage.NEW, None, None)
    assert store.order(order.order_id) == order


def test_an_unknown_order_is_refused_by_name(store: OrderStore) -> None:
    with pytest.raises(OrderUnknown, match="o-none"):
        store.order("o-none")


def test_each_step_is_kept(store: OrderStore) -> None:
    order, claim = opened(store)
    order = store.advance(order, claim, Stage.RESERVED, now=LATER, total=TEN)
    assert store.order(order.order_id) == order
    for stage in (Stage.AUTHORISED, Stage.CHARGED, Stage.PLACED):
        order = store.advance(order, claim, stage, now=LATER)
        assert store.order(order.order_id) == order
    assert (order.total, order.updated_at, order.final) == (TEN, LATER, True)


def test_a_failure_is_kept_before_and_after_it_is_final(store: OrderStore) -> None:
    order, claim = opened(store)
    order = store.fail(order, claim, FAILURE, now=LATER)
    assert (store.order(order.order_id), order.final) == (order, False)
    order = store.advance(order, claim, Stage.FAILED, now=LATER)
    assert (store.order(order.order_id), order.final) == (order, True)
    assert order.failure == FAILURE


def test_the_same_key_finds_the_order_and_not_the_work(store: OrderStore) -> None:
    order, _ = opened(store)
    assert store.open(WANTED, now=LATER) == (order, None)


@pytest.mark.parametrize(
    "other",
    [
        replace(WANTED, customer="bob"),
        replace(WANTED, lines=(Line("A", 1),)),
        replace(WANTED, lines=(Line("A", 1), Line("B", 3))),
    ],
)
def test_the_same_key_for_something_else_is_refused(
    store: OrderStore, engine: Engine, other: Placement
) -> None:
    order, _ = opened(store)
    with pytest.raises(KeyTaken):
        store.open(other, now=NOW)
    pass_time(engine, 2 * LEASE)
    with pytest.raises(KeyTaken):
        store.open(other, now=NOW)
    assert store.open(WANTED, now=NOW)[0] == order


def test_work_left_behind_is_taken_over_when_its_claim_has_ended(store: OrderStore, engine: Engine) -> None:
    order, slept = opened(store)
    pass_time(engine, LEASE / 2)
    assert store.open(WANTED, now=NOW)[1] is None
    pass_time(engine, LEASE)
    found, claim = opened(store)
    assert (found, claim != slept) == (order, True)


def test_a_record_extends_the_claim(store: OrderStore, engine: Engine) -> None:
    order, claim = opened(store)
    pass_time(engine, LEASE / 2)
    store.advance(order, claim, Stage.RESERVED, now=NOW, total=TEN)
    pass_time(engine, LEASE / 2)
    assert store.open(WANTED, now=NOW)[1] is None


def test_work_given_up_is_free_at_once(store: OrderStore) -> None:
    order, claim = opened(store)
    store.leave(order, claim, now=NOW)
    assert store.open(WANTED, now=NOW)[1] is not None


def test_nobody_works_on_a_final_order(store: OrderStore, engine: Engine) -> None:
    order, claim = opened(store)
    order = store.fail(order, claim, FAILURE, now=NOW)
    order = store.advance(order, claim, Stage.FAILED, now=NOW)
    pass_time(engine, 2 * LEASE)
    assert store.open(WANTED, now=NOW) == (order, None)


def test_who_slept_through_his_claim_changes_nothing(store: OrderStore, engine: Engine) -> None:
    order, slept = opened(store)
    pass_time(engine, 2 * LEASE)
    _, claim = opened(store)
    with pytest.raises(ClaimLost):
        store.advance(order, slept, Stage.RESERVED, now=NOW, total=TEN)
    with pytest.raises(ClaimLost):
        store.fail(order, slept, FAILURE, now=NOW)
    store.renew(order, slept, now=NOW)
    store.leave(order, slept, now=NOW)
    assert store.take(now=NOW) is None, "the claim of his successor is not touched"
    assert store.order(order.order_id) == order
    assert store.advance(order, claim, Stage.RESERVED, now=NOW, total=TEN).stage is Stage.RESERVED


def test_a_step_from_a_stage_that_has_passed_changes_nothing(store: OrderStore) -> None:
    new, claim = opened(store)
    reserved = store.advance(new, claim, Stage.RESERVED, now=NOW, total=TEN)
    with pytest.raises(ClaimLost):
        store.advance(new, claim, Stage.RESERVED, now=NOW, total=TEN.times(2))
    assert store.order(new.order_id) == reserved


def test_an_order_given_up_takes_no_step_forward(store: OrderStore) -> None:
    order, claim = opened(store)
    failing = store.fail(order, claim, FAILURE, now=NOW)
    with pytest.raises(ClaimLost):
        store.advance(order, claim, Stage.RESERVED, now=NOW, total=TEN)
    assert store.order(order.order_id) == failing


def test_of_many_with_one_key_one_works(store: OrderStore) -> None:
    with ThreadPoolExecutor(8) as crowd:
        found = list(crowd.map(lambda _: store.open(WANTED, now=NOW), range(16)))
    assert len({order.order_id for order, _ in found}) == 1
    assert sum(claim is not None for _, claim in found) == 1
