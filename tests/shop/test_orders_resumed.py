"""An order whose worker has gone: whoever asks with its key again brings it to its end."""

from datetime import UTC, datetime

import grpc
import pytest

from hauberk.protos.shop.orders.v1 import orders_pb2
from hauberk.services.catalog.store import Line as Goods
from hauberk.services.money import Money
from hauberk.services.orders.store import CLAIM, Failure, Line, Order, Placement, Stage
from hauberk.services.payments.store import State
from tests.shop.said import order_id_of, refused
from tests.shop.stage import NewShop, Shop

WITHIN_S = 5
WANTED = Placement(idempotency_key="k1", customer="ann", lines=(Line("T-HELM", 2),))
REQUEST = orders_pb2.PlaceOrderRequest(
    idempotency_key="k1", customer="ann", lines=[orders_pb2.OrderLine(sku="T-HELM", quantity=2)]
)


@pytest.fixture
def shop(new_shop: NewShop) -> Shop:
    """Not started yet."""
    shop = new_shop()
    shop.sell("T-HELM", 5000, 10)
    return shop


@pytest.mark.parametrize("stage", [Stage.NEW, Stage.RESERVED, Stage.AUTHORISED, Stage.CHARGED])
@pytest.mark.parametrize("recorded_only", [False, True], ids=["step done", "step not done"])
async def test_an_order_left_at_any_stage_is_finished_when_the_same_key_asks_again(
    shop: Shop, stage: Stage, recorded_only: bool
) -> None:
    """A crash leaves the last recorded stage; the step after it may have been done or not."""
    left = leave_at(shop, stage)
    if not recorded_only:
        do_next_step(shop, left)
    await shop.start()
    placed = await shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S)
    assert (placed.order_id, placed.status) == (left.order_id, orders_pb2.ORDER_STATUS_PLACED)
    assert shop.left("T-HELM") == 8
    assert shop.till.payment(placed.order_id).state is State.CAPTURED


@pytest.mark.parametrize("stage", [Stage.NEW, Stage.RESERVED, Stage.AUTHORISED])
async def test_an_order_left_while_it_was_undone_is_undone(shop: Shop, stage: Stage) -> None:
    left = leave_at(shop, stage, Failure(reason="GAVE_UP", message="payments is not available"))
    await shop.start()
    error = await refused(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    assert (error.code(), order_id_of(error)) == (grpc.StatusCode.ABORTED, left.order_id)
    assert shop.left("T-HELM") == 10
    assert shop.books.order(left.order_id).stage is Stage.FAILED


def leave_at(shop: Shop, stage: Stage, failure: Failure | None = None) -> Order:
    """What a crash leaves: an order recorded at `stage`, its claim run out."""
    then = datetime.now(UTC) - 2 * CLAIM
    order, claim = shop.books.open(WANTED, now=then)
    assert claim is not None
    for following in [Stage.RESERVED, Stage.AUTHORISED, Stage.CHARGED]:
        if order.stage is stage:
            break
        do_next_step(shop, order)
        total = Money(currency="EUR", minor_units=10_000)
        order = shop.books.advance(order, claim, following, now=then, total=total)
    return order if failure is None else shop.books.fail(order, claim, failure, now=then)


def do_next_step(shop: Shop, order: Order) -> None:
    now = datetime.now(UTC)
    match order.stage:
        case Stage.NEW:
            shop.stock.reserve(order.order_id, [Goods("T-HELM", 2)], now=now)
        case Stage.RESERVED:
            total = Money(currency="EUR", minor_units=10_000)
            shop.till.authorise(order.order_id, "ann", total, decline=None, now=now)
        case Stage.AUTHORISED:
            shop.till.capture(order.order_id, now=now)
