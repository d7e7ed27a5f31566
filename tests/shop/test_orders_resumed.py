"""An order whose worker has gone: whoever asks with its key again brings it to its end."""

import grpc
import pytest

from hauberk.protos.shop.orders.v1 import orders_pb2
from hauberk.services.orders.store import Stage
from hauberk.services.payments.store import State
from tests.shop.abandoned import GIVEN_UP, REQUEST, do_next_step, leave_at
from tests.shop.said import order_id_of, refused
from tests.shop.stage import NewShop, Shop

WITHIN_S = 5


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
    left = leave_at(shop, stage, GIVEN_UP)
    await shop.start()
    error = await refused(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    assert (error.code(), order_id_of(error)) == (grpc.StatusCode.ABORTED, left.order_id)
    assert shop.left("T-HELM") == 10
    assert shop.books.order(left.order_id).stage is Stage.FAILED
