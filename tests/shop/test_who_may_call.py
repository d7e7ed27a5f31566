"""The shop's contracts as its callers meet them: hauberk.testing, as a user of the library has it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hauberk.protos.shop.orders.v1 import orders_pb2
from hauberk.protos.shop.orders.v1.orders_pb2_grpc import OrdersStub
from hauberk.protos.shop.payments.v1 import payments_pb2
from hauberk.protos.shop.payments.v1.payments_pb2_grpc import PaymentsStub
from hauberk.services.orders.callees import Callees
from hauberk.services.orders.servicer import Orders
from hauberk.testing import LocalMesh, refused
from tests.shop.stage import NewShop

ORDER = orders_pb2.PlaceOrderRequest(
    idempotency_key="k1", customer="ann", lines=[orders_pb2.OrderLine(sku="T-HELM", quantity=2)]
)


@pytest.fixture
async def mesh(hauberk_mesh: LocalMesh, new_shop: NewShop) -> AsyncIterator[LocalMesh]:
    """The three services of the shop, each calling the others as itself."""
    shop = new_shop()
    shop.sell("T-HELM", 5000, 10)
    callees = Callees(hauberk_mesh.channel("orders"))
    async with (
        hauberk_mesh.serving(shop.new_catalog(), name="catalog"),
        hauberk_mesh.serving(shop.new_payments(), name="payments"),
        shop.errands,
        hauberk_mesh.serving(Orders(shop.books, callees, shop.errands, shop.leaving), name="orders"),
    ):
        yield hauberk_mesh


def orders(mesh: LocalMesh, caller: str = "gateway") -> Any:
    return OrdersStub(mesh.channel(caller))


async def test_order_of_the_gateway_leads_to_calls_of_the_orders_alone(mesh: LocalMesh) -> None:
    placed = await orders(mesh).PlaceOrder(ORDER, timeout=5)
    assert placed.status == orders_pb2.ORDER_STATUS_PLACED
    entries = await mesh.log.reach(4)
    called = {entry["rpc.method"].rpartition("/")[2]: entry["client.spiffe_id"] for entry in entries}
    assert called.pop("PlaceOrder") == "spiffe://mesh.test/gateway"
    assert called.keys() == {"ReserveStock", "Authorise", "Capture"}
    assert set(called.values()) == {"spiffe://mesh.test/orders"}
    assert len({entry["trace.id"] for entry in entries}) == 1


@pytest.mark.parametrize("caller", ["batch/nightly", "batch/a/b"])
async def test_batches_place_orders_and_see_none(mesh: LocalMesh, caller: str) -> None:
    placed = await orders(mesh, caller).PlaceOrder(ORDER, timeout=5)
    with refused("PERMISSION_DENIED", reason="CALLER_NOT_ALLOWED"):
        await orders(mesh, caller).GetOrder(orders_pb2.GetOrderRequest(order_id=placed.order_id), timeout=5)


@pytest.mark.parametrize("caller", ["catalog", "payments", "orders", "batch", "gateway/2"])
async def test_nobody_else_places_an_order(mesh: LocalMesh, caller: str) -> None:
    with refused("PERMISSION_DENIED", reason="CALLER_NOT_ALLOWED"):
        await orders(mesh, caller).PlaceOrder(ORDER, timeout=5)


async def test_gateway_takes_no_money_and_no_goods_past_the_orders(mesh: LocalMesh) -> None:
    with refused("PERMISSION_DENIED", reason="CALLER_NOT_ALLOWED"):
        request = payments_pb2.AuthoriseRequest(payment_id="p1", customer="ann")
        await PaymentsStub(mesh.channel("gateway")).Authorise(request, timeout=5)


async def test_order_needs_a_deadline_and_a_key(mesh: LocalMesh) -> None:
    with refused("FAILED_PRECONDITION", reason="DEADLINE_REQUIRED"):
        await orders(mesh).PlaceOrder(ORDER)
    with refused("INVALID_ARGUMENT", reason="MESSAGE_INVALID") as refusal:
        await orders(mesh).PlaceOrder(orders_pb2.PlaceOrderRequest(customer="ann"), timeout=5)
    assert "idempotency_key" in refusal.details
