"""Orders over gRPC: placed once, refused with a reason, and undone when a callee fails in the middle."""

import asyncio
from typing import Any

import grpc
import pytest

from hauberk.protos.shop.orders.v1 import orders_pb2
from hauberk.protos.shop.orders.v1.orders_pb2_grpc import OrdersStub
from hauberk.services.payments.errors import PaymentUnknown
from hauberk.services.payments.store import State
from tests.shop.said import fields, order_id_of, reason, refused
from tests.shop.stage import NewShop, Shop

WITHIN_S = 5
PLACED = orders_pb2.ORDER_STATUS_PLACED
FAILED = orders_pb2.ORDER_STATUS_FAILED
TOO_MANY: dict[str, Any] = {f"P_{number}": 1 for number in range(101)}


@pytest.fixture
async def shop(new_shop: NewShop) -> Shop:
    shop = new_shop()
    await shop.start()
    shop.sell("T-HELM", 5000, 10)
    shop.sell("T-GLOVE", 1250, 10)
    return shop


def order(key: str = "k1", /, customer: str = "ann", **basket: int) -> orders_pb2.PlaceOrderRequest:
    lines = [
        orders_pb2.OrderLine(sku=sku.replace("_", "-"), quantity=quantity)
        for sku, quantity in (basket or {"T_HELM": 2}).items()
    ]
    return orders_pb2.PlaceOrderRequest(idempotency_key=key, customer=customer, lines=lines)


async def recorded(shop: Shop, order_id: str) -> orders_pb2.Order:
    return await shop.orders.GetOrder(orders_pb2.GetOrderRequest(order_id=order_id), timeout=WITHIN_S)


async def test_a_placed_order_is_paid_and_its_goods_have_left(shop: Shop) -> None:
    placed = await shop.orders.PlaceOrder(order(T_GLOVE=3, T_HELM=2), timeout=WITHIN_S)
    assert (placed.status, placed.customer, placed.failure) == (PLACED, "ann", "")
    assert (placed.total.minor_units, placed.total.currency) == (13_750, "EUR")
    assert [(line.sku, line.quantity) for line in placed.lines] == [("T-GLOVE", 3), ("T-HELM", 2)]
    assert await recorded(shop, placed.order_id) == placed
    assert (shop.left("T-HELM"), shop.left("T-GLOVE")) == (8, 7)
    payment = shop.till.payment(placed.order_id)
    assert (payment.state, payment.amount.minor_units) == (State.CAPTURED, 13_750)


async def test_the_same_key_again_is_the_same_order(shop: Shop) -> None:
    placed = await shop.orders.PlaceOrder(order(T_HELM=2, T_GLOVE=1), timeout=WITHIN_S)
    again = await shop.orders.PlaceOrder(order(T_GLOVE=1, T_HELM=2), timeout=WITHIN_S)
    assert again == placed
    assert shop.left("T-HELM") == 8


@pytest.mark.parametrize(
    "other", [order(customer="bob"), order(T_HELM=3), order(T_GLOVE=2), order(T_HELM=2, T_GLOVE=1)]
)
async def test_the_same_key_for_another_order_already_exists(
    shop: Shop, other: orders_pb2.PlaceOrderRequest
) -> None:
    await shop.orders.PlaceOrder(order(T_HELM=2), timeout=WITHIN_S)
    error = await refused(shop.orders.PlaceOrder(other, timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (grpc.StatusCode.ALREADY_EXISTS, "KEY_TAKEN")
    assert (shop.left("T-HELM"), shop.left("T-GLOVE")) == (8, 10)


async def test_many_at_once_with_one_key_get_one_order(shop: Shop) -> None:
    calls = [shop.orders.PlaceOrder(order(), timeout=WITHIN_S) for _ in range(12)]
    placed = await asyncio.gather(*calls)
    assert placed == [placed[0]] * 12
    assert shop.left("T-HELM") == 8


async def test_many_orders_at_once_sell_no_more_than_there_is(shop: Shop) -> None:
    async def attempt(number: int) -> int:
        try:
            placed = await shop.orders.PlaceOrder(order(f"k{number}", T_HELM=1, T_GLOVE=1), timeout=WITHIN_S)
        except grpc.aio.AioRpcError as error:
            if reason(error) != "OUT_OF_STOCK":
                raise
            return 0
        return shop.till.payment(placed.order_id).amount.minor_units

    paid = await asyncio.gather(*(attempt(number) for number in range(16)))
    assert sorted(paid) == [0] * 6 + [6250] * 10
    assert (shop.left("T-HELM"), shop.left("T-GLOVE")) == (0, 0)


async def test_a_declined_order_gives_its_goods_back_and_stays_declined(shop: Shop) -> None:
    for _ in range(2):
        error = await refused(shop.orders.PlaceOrder(order(customer="broke-bob"), timeout=WITHIN_S))
        assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "PAYMENT_DECLINED")
        assert shop.left("T-HELM") == 10
    failed = await recorded(shop, order_id_of(error))
    assert (failed.status, failed.failure) == (FAILED, "payment declined")
    assert shop.till.payment(failed.order_id).state is State.DECLINED


@pytest.mark.parametrize(
    ("basket", "said", "told"),
    [
        ({"T_GLOVE": 1, "T_HELM": 11}, "OUT_OF_STOCK", "not enough left of T-HELM"),
        ({"T_GLOVE": 1, "T_NONE": 1}, "PRODUCT_UNKNOWN", "no such product: T-NONE"),
        ({"T_GLOVE": 1, "T_YEN": 1}, "CURRENCIES_MIXED", "goods of two currencies, one of them T-YEN"),
    ],
)
async def test_what_the_catalog_refuses_is_said_and_recorded(
    shop: Shop, basket: dict[str, Any], said: str, told: str
) -> None:
    shop.sell("T-YEN", 700, 10, currency="JPY")
    error = await refused(shop.orders.PlaceOrder(order("k1", **basket), timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, said)
    assert told in (error.details() or "")
    failed = await recorded(shop, order_id_of(error))
    assert (failed.status, failed.failure) == (FAILED, told)
    assert shop.left("T-GLOVE") == 10
    with pytest.raises(PaymentUnknown):
        shop.till.payment(failed.order_id)


@pytest.mark.parametrize(
    ("request_", "wrong"),
    [
        (order(""), ["idempotency_key"]),
        (order("x" * 65), ["idempotency_key"]),
        (order("nul\0"), ["idempotency_key"]),
        (order(customer=""), ["customer"]),
        (order(customer="Ann"), ["customer"]),
        (orders_pb2.PlaceOrderRequest(idempotency_key="k", customer="ann"), ["lines"]),
        (order(T_HELM=0), ["lines[0].quantity"]),
        (order(T_HELM=10_001), ["lines[0].quantity"]),
        (order(lower=1), ["lines[0].sku"]),
        (order(**TOO_MANY), ["lines"]),
        (
            orders_pb2.PlaceOrderRequest(
                idempotency_key="k", customer="ann", lines=[orders_pb2.OrderLine(sku="A", quantity=1)] * 2
            ),
            ["lines"],
        ),
    ],
)
async def test_an_order_outside_the_contract_is_refused(
    shop: Shop, request_: orders_pb2.PlaceOrderRequest, wrong: list[str]
) -> None:
    error = await refused(shop.orders.PlaceOrder(request_, timeout=WITHIN_S))
    assert (error.code(), fields(error)) == (grpc.StatusCode.INVALID_ARGUMENT, wrong)


async def test_an_order_without_a_deadline_is_refused(shop: Shop) -> None:
    error = await refused(shop.orders.PlaceOrder(order()))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert shop.left("T-HELM") == 10


async def test_only_the_gateway_and_batches_may_order(shop: Shop) -> None:
    batch: Any = OrdersStub(shop.street.channel("batch/nightly"))
    assert (await batch.PlaceOrder(order("k1"), timeout=WITHIN_S)).status == PLACED
    payments: Any = OrdersStub(shop.street.channel("payments"))
    error = await refused(payments.PlaceOrder(order("k2"), timeout=WITHIN_S))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_an_unknown_order_is_not_found(shop: Shop) -> None:
    request = orders_pb2.GetOrderRequest(order_id="none")
    error = await refused(shop.orders.GetOrder(request, timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "ORDER_UNKNOWN")
    watch = shop.orders.WatchOrder(orders_pb2.WatchOrderRequest(order_id="none"), timeout=WITHIN_S)
    assert (await refused(anext(aiter(watch)))).code() is grpc.StatusCode.NOT_FOUND


async def test_watching_a_final_order_shows_it_and_ends(shop: Shop) -> None:
    placed = await shop.orders.PlaceOrder(order(), timeout=WITHIN_S)
    watch = shop.orders.WatchOrder(orders_pb2.WatchOrderRequest(order_id=placed.order_id), timeout=WITHIN_S)
    assert [each async for each in watch] == [placed]
