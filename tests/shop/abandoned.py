"""Orders as a crash leaves them: recorded at some stage, and nobody there who works on them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hauberk.protos.shop.orders.v1 import orders_pb2
from hauberk.services.catalog.store import Line as Goods
from hauberk.services.money import Money
from hauberk.services.orders.store import Failure, Line, Order, Placement, Stage
from tests.shop.stage import Shop

WANTED = Placement(idempotency_key="k1", customer="ann", lines=(Line("T-HELM", 2),))
REQUEST = orders_pb2.PlaceOrderRequest(
    idempotency_key="k1", customer="ann", lines=[orders_pb2.OrderLine(sku="T-HELM", quantity=2)]
)
GIVEN_UP = Failure(reason="GAVE_UP", message="payments is not available")
TOTAL = Money(currency="EUR", minor_units=10_000)


def leave_at(
    shop: Shop,
    stage: Stage,
    failure: Failure | None = None,
    *,
    key: str = "k1",
    age: timedelta = timedelta(0),
) -> Order:
    """An order of two T-HELM recorded at `stage`; it was begun `age` ago."""
    then = datetime.now(UTC) - age
    order, claim = shop.books.open(replace(WANTED, idempotency_key=key), now=then)
    assert claim is not None
    for following in [Stage.RESERVED, Stage.AUTHORISED, Stage.CHARGED]:
        if order.stage is stage:
            break
        do_next_step(shop, order)
        order = shop.books.advance(order, claim, following, now=then, total=TOTAL)
    if failure is not None:
        order = shop.books.fail(order, claim, failure, now=then)
    shop.books.leave(order, claim, now=then)
    return order


def do_next_step(shop: Shop, order: Order) -> None:
    """What its worker had asked a callee for, and not recorded."""
    now = datetime.now(UTC)
    match order.stage:
        case Stage.NEW:
            shop.stock.reserve(order.order_id, [Goods("T-HELM", 2)], now=now)
        case Stage.RESERVED:
            shop.till.authorise(order.order_id, "ann", TOTAL, decline=None, now=now)
        case Stage.AUTHORISED:
            shop.till.capture(order.order_id, now=now)
