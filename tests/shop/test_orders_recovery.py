"""Orders that nobody works on any more come to their end by themselves, and nobody else's are touched."""

# ruff: noqa: N802 (the contract names the methods)

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from hauberk.protos.shop.orders.v1 import orders_pb2
from hauberk.protos.shop.payments.v1 import payments_pb2
from hauberk.services.orders.errors import ClaimLost
from hauberk.services.orders.lease import LEASE
from hauberk.services.orders.recovery import AT_ONCE, PATIENCE, Recovery
from hauberk.services.orders.servicer import Orders
from hauberk.services.orders.store import Order, OrderStore, Stage
from hauberk.services.payments.errors import PaymentUnknown
from hauberk.services.payments.servicer import Payments
from hauberk.services.payments.store import State
from tests.mesh.fleet import eventually
from tests.shop.abandoned import GIVEN_UP, REQUEST, do_next_step, leave_at
from tests.shop.said import order_id_of, reason, refused
from tests.shop.stage import NewShop, Shop, pass_time

WITHIN_S = 8
LOOK_S = 0.05
OLD = PATIENCE + timedelta(seconds=1)


class SlowPayments(Payments):
    """Captures, and answers only when told to `go`; `most` is how many waited for that at once."""

    def __init__(self, shop: Shop) -> None:
        super().__init__(shop.till)
        self.captured = asyncio.Event()
        self.go = asyncio.Event()
        self.waiting = self.most = 0

    async def Capture(self, request: payments_pb2.CaptureRequest, context: Any) -> payments_pb2.Payment:
        payment = await super().Capture(request, context)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        self.captured.set()
        await self.go.wait()
        self.waiting -= 1
        return payment


class NoThreads(OrderStore):
    """Its claims cannot be given up, as on a machine that starts no thread any more."""

    def leave(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")


class Replicas:
    """What recovers in replicas of the orders, each with its own store and saga over the one database."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self.open = AsyncExitStack()

    async def start(
        self,
        *,
        leaving: asyncio.Event | None = None,
        lease: timedelta = LEASE,
        store_of: type[OrderStore] = OrderStore,
    ) -> None:
        store = store_of(self._shop.books_engine, lease=lease)
        orders = self._shop.new_orders(Orders, books=store)
        recovery = Recovery(store, orders.saga, leaving or asyncio.Event(), look_s=LOOK_S)
        await self.open.enter_async_context(recovery)


@pytest.fixture
def shop(new_shop_on_both: NewShop) -> Shop:
    """Not started yet."""
    shop = new_shop_on_both()
    shop.sell("T-HELM", 5000, 100)
    return shop


@pytest.fixture
async def replicas(shop: Shop) -> AsyncIterator[Replicas]:
    replicas = Replicas(shop)
    yield replicas
    await replicas.open.aclose()


async def settled(shop: Shop, order: Order) -> Stage:
    """How the order ended."""
    await eventually(lambda: shop.books.order(order.order_id).final, within=WITHIN_S)
    return shop.books.order(order.order_id).stage


@pytest.mark.parametrize("stage", [Stage.NEW, Stage.RESERVED, Stage.AUTHORISED, Stage.CHARGED])
@pytest.mark.parametrize("next_done", [False, True], ids=["next step not done", "next step done"])
async def test_an_order_left_at_any_stage_is_placed_with_nobody_asking(
    shop: Shop, replicas: Replicas, stage: Stage, next_done: bool
) -> None:
    left = leave_at(shop, stage)
    if next_done:
        do_next_step(shop, left)
    await shop.start()
    await replicas.start()
    assert await settled(shop, left) is Stage.PLACED
    assert shop.left("T-HELM") == 98
    assert shop.till.payment(left.order_id).state is State.CAPTURED


@pytest.mark.parametrize("stage", [Stage.NEW, Stage.RESERVED, Stage.AUTHORISED])
async def test_an_order_left_while_it_was_undone_is_undone(
    shop: Shop, replicas: Replicas, stage: Stage
) -> None:
    """The step after its stage had been done, though it was not recorded."""
    left = leave_at(shop, stage, GIVEN_UP)
    do_next_step(shop, left)
    await shop.start()
    await replicas.start()
    assert await settled(shop, left) is Stage.FAILED
    assert shop.left("T-HELM") == 100
    assert not is_paid(shop, left)


@pytest.mark.parametrize(
    ("stage", "end"),
    [
        (Stage.NEW, Stage.FAILED),
        (Stage.RESERVED, Stage.FAILED),
        (Stage.AUTHORISED, Stage.PLACED),
        (Stage.CHARGED, Stage.PLACED),
    ],
)
async def test_an_old_order_is_placed_only_where_its_money_may_be_taken(
    shop: Shop, replicas: Replicas, stage: Stage, end: Stage
) -> None:
    """The step after its stage had been done, though it was not recorded."""
    left = leave_at(shop, stage, age=OLD)
    do_next_step(shop, left)
    await shop.start()
    await replicas.start()
    assert await settled(shop, left) is end
    assert shop.left("T-HELM") == (98 if end is Stage.PLACED else 100)
    assert is_paid(shop, left) is (end is Stage.PLACED)


async def test_a_slow_twins_living_order_is_not_touched(shop: Shop, replicas: Replicas) -> None:
    """Its lease is over four times while a payment takes its time, and renewed as often."""
    shop.books.lease = timedelta(seconds=0.6)
    slow = SlowPayments(shop)
    await shop.start(payments=slow)
    placing = asyncio.ensure_future(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    await slow.captured.wait()
    owner = shop.claimed_by("k1")
    await replicas.start(lease=shop.books.lease)
    for _ in range(24):
        await asyncio.sleep(0.1)
        assert shop.claimed_by("k1") == owner
    slow.go.set()
    assert (await placing).status == orders_pb2.ORDER_STATUS_PLACED
    assert slow.most == 1, "nobody else asked for the money"


async def test_who_wakes_after_his_order_was_recovered_changes_nothing(
    shop: Shop, replicas: Replicas
) -> None:
    slow = SlowPayments(shop)
    await shop.start(payments=slow)
    order, asleep = shop.books.open(leave_at(shop, Stage.NEW).placement, now=now())
    assert asleep is not None
    pass_time(shop.books_engine, 2 * LEASE)
    slow.go.set()
    await replicas.start()
    assert await settled(shop, order) is Stage.PLACED
    with pytest.raises(ClaimLost):
        shop.books.fail(order, asleep, GIVEN_UP, now=now())
    with pytest.raises(ClaimLost):
        await shop.new_orders().saga.settle(order, asleep, until=0.0)
    assert shop.books.order(order.order_id).stage is Stage.PLACED
    assert (shop.left("T-HELM"), is_paid(shop, order)) == (98, True)


async def test_two_replicas_share_the_work_and_no_order(
    shop: Shop, replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hauberk.services.orders.recovery")
    left = [leave_at(shop, Stage.RESERVED, key=f"k{number}") for number in range(20)]
    await shop.start()
    await asyncio.gather(replicas.start(), replicas.start())
    assert {await settled(shop, order) for order in left} == {Stage.PLACED}
    assert shop.left("T-HELM") == 60
    await eventually(lambda: len(recovered(caplog)) >= 20, within=WITHIN_S)
    assert sorted(recovered(caplog)) == sorted(order.order_id for order in left)


async def test_recovery_takes_no_more_at_once_than_it_should(shop: Shop, replicas: Replicas) -> None:
    slow = SlowPayments(shop)
    for number in range(AT_ONCE + 4):
        leave_at(shop, Stage.AUTHORISED, key=f"k{number}")
    await shop.start(payments=slow)
    await replicas.start()
    await eventually(lambda: slow.waiting == AT_ONCE, within=WITHIN_S)
    await asyncio.sleep(4 * LOOK_S)
    assert slow.most == AT_ONCE
    slow.go.set()


async def test_a_callee_that_is_away_costs_no_young_order(shop: Shop, replicas: Replicas) -> None:
    left = leave_at(shop, Stage.RESERVED)
    await shop.start()
    await shop.street.close("payments")
    await replicas.start()
    await eventually(lambda: shop.resting("k1"), within=WITHIN_S)
    assert (shop.books.order(left.order_id).failure, shop.left("T-HELM")) == (None, 98)
    await shop.street.serve("payments", shop.new_payments())
    assert await settled(shop, left) is Stage.PLACED


async def test_what_could_not_be_undone_is_undone_when_the_callee_is_back(
    shop: Shop, replicas: Replicas
) -> None:
    """And whoever was told to ask again is told of the same order."""
    await shop.start()
    await shop.street.close("payments")
    await replicas.start()
    error = await refused(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "ORDER_UNSETTLED")
    left = shop.books.order(order_id_of(error))
    await eventually(lambda: shop.resting("k1"), within=WITHIN_S)
    await shop.street.serve("payments", shop.new_payments())
    assert await settled(shop, left) is Stage.FAILED
    again = await refused(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    assert (reason(again), order_id_of(again)) == ("GAVE_UP", left.order_id)
    assert shop.left("T-HELM") == 100


async def test_an_order_recovered_meanwhile_is_what_the_same_key_gets(shop: Shop, replicas: Replicas) -> None:
    left = leave_at(shop, Stage.AUTHORISED)
    await shop.start()
    await replicas.start()
    placed = await shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S)
    assert (placed.order_id, placed.status) == (left.order_id, orders_pb2.ORDER_STATUS_PLACED)
    assert shop.left("T-HELM") == 98


async def test_one_order_that_cannot_be_recovered_keeps_no_other(
    shop: Shop, replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    broken = leave_at(shop, Stage.NEW, key="broken")
    order, claim = shop.books.open(broken.placement, now=now())
    assert claim is not None
    shop.books.advance(order, claim, Stage.RESERVED, now=now())  # without a total, as nobody writes it
    shop.books.leave(order, claim, now=now())
    left = leave_at(shop, Stage.NEW)
    await shop.start()
    await replicas.start()
    assert await settled(shop, left) is Stage.PLACED
    await eventually(lambda: shop.resting("broken"), within=WITHIN_S)
    assert f"order {broken.order_id} cannot be recovered" in caplog.text


async def test_one_order_that_cannot_be_given_up_keeps_no_other(
    shop: Shop, replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    away = leave_at(shop, Stage.RESERVED)
    await shop.start()
    await shop.street.close("payments")
    await replicas.start(store_of=NoThreads)
    await eventually(lambda: f"order {away.order_id} cannot be given up" in caplog.text, within=WITHIN_S)
    charged = leave_at(shop, Stage.CHARGED, key="k2")
    assert await settled(shop, charged) is Stage.PLACED


async def test_a_leaving_replica_gives_up_what_it_has_not_finished(shop: Shop, replicas: Replicas) -> None:
    slow = SlowPayments(shop)
    left = leave_at(shop, Stage.AUTHORISED)
    await shop.start(payments=slow)
    leaving = asyncio.Event()
    await replicas.start(leaving=leaving)
    await slow.captured.wait()
    leaving.set()
    await eventually(lambda: shop.claimed_by("k1") is None, within=WITHIN_S)
    late = leave_at(shop, Stage.CHARGED, key="k2")
    await asyncio.sleep(4 * LOOK_S)
    assert not shop.books.order(late.order_id).final, "a leaving replica takes nothing more"
    slow.go.set()
    await replicas.start()
    assert await settled(shop, left) is Stage.PLACED
    assert await settled(shop, late) is Stage.PLACED


async def test_a_block_that_ends_gives_up_what_it_has_not_finished(shop: Shop, replicas: Replicas) -> None:
    slow = SlowPayments(shop)
    leave_at(shop, Stage.AUTHORISED)
    await shop.start(payments=slow)
    await replicas.start()
    await slow.captured.wait()
    await replicas.open.aclose()
    assert shop.claimed_by("k1") is None
    slow.go.set()


async def test_recovery_outlives_its_database(
    shop: Shop, replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    left = leave_at(shop, Stage.NEW)
    await shop.start()
    shop.lose_database("orders")
    await replicas.start()
    await eventually(lambda: "cannot be looked for" in caplog.text, within=WITHIN_S)
    shop.find_database("orders")
    assert await settled(shop, left) is Stage.PLACED


def now() -> datetime:
    return datetime.now(UTC)


def is_paid(shop: Shop, order: Order) -> bool:
    try:
        return shop.till.payment(order.order_id).state in {State.AUTHORISED, State.CAPTURED}
    except PaymentUnknown:
        return False


def recovered(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The orders that recovery says it has settled."""
    said = [record.getMessage() for record in caplog.records if "was left" in record.getMessage()]
    return [line.split()[1] for line in said]
