"""Who may work on an order: one at a time, as long as he lives, then whoever looks first; on both engines."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event

from hauberk.services.orders.lease import LEASE, LONGEST_REST
from hauberk.services.orders.store import Claim, Failure, Line, Order, OrderStore, Placement, Stage
from tests.shop.stage import OpenEngine, pass_time

NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
WANTED = Placement(idempotency_key="k1", customer="ann", lines=(Line("A", 1), Line("B", 2)))
FAILURE = Failure(reason="OUT_OF_STOCK", message="not enough left of A")
MOMENT = timedelta(seconds=1)


@pytest.fixture
def engine(engine_of: OpenEngine) -> Engine:
    return engine_of("orders")


@pytest.fixture
def store(engine: Engine) -> OrderStore:
    return OrderStore(engine)


def opened(store: OrderStore, key: str = "k1", now: datetime = NOW) -> tuple[Order, Claim]:
    order, claim = store.open(replace(WANTED, idempotency_key=key), now=now)
    assert claim is not None
    return order, claim


def test_a_living_claim_is_not_taken(store: OrderStore, engine: Engine) -> None:
    order, claim = opened(store)
    pass_time(engine, LEASE - MOMENT)
    assert store.take(now=NOW) is None
    assert store.fail(order, claim, FAILURE, now=NOW).failure == FAILURE


def test_a_claim_that_ran_out_is_taken_once(store: OrderStore, engine: Engine) -> None:
    order, slept = opened(store)
    pass_time(engine, LEASE + MOMENT)
    taken = store.take(now=NOW)
    assert taken is not None
    assert (taken[0], taken[1] != slept) == (order, True)
    assert store.take(now=NOW) is None
    assert store.fail(*taken, FAILURE, now=NOW).failure == FAILURE


def test_a_renewed_claim_lives_on(store: OrderStore, engine: Engine) -> None:
    order, claim = opened(store)
    for _ in range(3):
        pass_time(engine, LEASE - MOMENT)
        store.renew(order, claim, now=NOW)
    assert store.take(now=NOW) is None


def test_an_order_given_up_is_taken_at_once(store: OrderStore) -> None:
    order, claim = opened(store)
    store.leave(order, claim, now=NOW)
    taken = store.take(now=NOW)
    assert taken is not None
    assert taken[0] == order


def test_an_order_at_rest_waits_for_its_customer_only(store: OrderStore, engine: Engine) -> None:
    order, claim = opened(store)
    store.leave(order, claim, now=NOW, rest=LONGEST_REST)
    pass_time(engine, LONGEST_REST - MOMENT)
    assert store.take(now=NOW) is None
    _, claim = opened(store)
    store.leave(order, claim, now=NOW, rest=LONGEST_REST)
    pass_time(engine, LONGEST_REST + MOMENT)
    assert store.take(now=NOW) is not None


@pytest.mark.parametrize("end", [Stage.PLACED, Stage.FAILED])
def test_a_final_order_is_never_taken(store: OrderStore, engine: Engine, end: Stage) -> None:
    order, claim = opened(store)
    store.advance(order, claim, end, now=NOW)
    pass_time(engine, 10 * LEASE)
    assert store.take(now=NOW) is None


def test_the_longest_abandoned_is_taken_first(store: OrderStore, engine: Engine) -> None:
    for key in ("k1", "k2", "k3"):
        opened(store, key)
        pass_time(engine, 2 * LEASE)
    taken = [store.take(now=NOW) for _ in range(4)]
    assert [each and each[0].placement.idempotency_key for each in taken] == ["k1", "k2", "k3", None]


def test_of_many_who_look_at_once_each_order_has_one(store: OrderStore, engine: Engine) -> None:
    keys = [f"k{number}" for number in range(24)]
    for key in keys:
        opened(store, key)
    pass_time(engine, 2 * LEASE)
    with ThreadPoolExecutor(8) as crowd:
        taken = list(crowd.map(lambda _: store.take(now=NOW), range(48)))
    got = Counter(each[0].placement.idempotency_key for each in taken if each is not None)
    assert got == Counter(keys)


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(hours=-1)], ids=["fast", "slow"])
def test_clocks_of_replicas_on_postgresql_may_differ(
    store: OrderStore, engine: Engine, ahead: timedelta
) -> None:
    """On SQLite all replicas have the one clock of their machine."""
    if engine.dialect.name != "postgresql":
        pytest.skip("replicas on SQLite share their clock")
    opened(store, now=NOW)
    assert store.take(now=NOW + ahead) is None
    assert store.open(WANTED, now=NOW + ahead)[1] is None
    pass_time(engine, LEASE + MOMENT)
    assert store.take(now=NOW + ahead) is not None


def test_a_clock_that_is_set_back_keeps_no_order_from_recovery(store: OrderStore, engine: Engine) -> None:
    opened(store)
    pass_time(engine, -timedelta(hours=1))
    assert store.take(now=NOW) is not None


def test_recovery_does_not_read_the_orders_that_are_final(store: OrderStore, engine: Engine) -> None:
    sent: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda *said: sent.append((said[2], said[3])))
    store.take(now=NOW)
    [(statement, values)] = [each for each in sent if each[0].startswith("UPDATE")]
    with engine.begin() as connection:
        explain = "EXPLAIN QUERY PLAN "
        if engine.dialect.name == "postgresql":
            explain = "EXPLAIN "
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # its choice for an empty table
        plan = connection.exec_driver_sql(explain + statement, values).all()
    assert "orders_unsettled" in str(plan)
