"""The shopper: what it does in a shop that is well, and that it notices one that is not."""

# ruff: noqa: N802 (the contract names the methods)

import asyncio
import json
from typing import Any
from uuid import uuid4

import grpc
import pytest

from hauberk.protos.shop.catalog.v1 import catalog_pb2
from hauberk.protos.shop.orders.v1 import orders_pb2
from hauberk.protos.shop.payments.v1 import payments_pb2
from hauberk.services.catalog.servicer import Catalog
from hauberk.services.orders.servicer import Orders
from hauberk.services.payments.servicer import Payments
from hauberk.services.shopper import opening
from hauberk.services.shopper.errors import ShopAmiss
from hauberk.services.shopper.load import Load
from hauberk.services.shopper.main import read_arguments
from hauberk.services.shopper.opening import until_open
from hauberk.services.shopper.visit import Visit
from tests.shop.stage import NewShop, Shop


@pytest.fixture
def shop(new_shop: NewShop) -> Shop:
    """Not started yet."""
    return new_shop()


class Thief(Catalog):
    """Takes one more of everything than it was asked for."""

    async def ReserveStock(
        self, request: catalog_pb2.ReserveStockRequest, context: Any
    ) -> catalog_pb2.Reservation:
        held = await super().ReserveStock(request, context)
        more = catalog_pb2.ReserveStockRequest(reservation_id=f"{request.reservation_id[:60]}+1")
        more.lines.extend(catalog_pb2.Line(sku=line.sku, quantity=1) for line in request.lines)
        await super().ReserveStock(more, context)
        return held


class Forgetful(Payments):
    """Says that it took the money, and did not."""

    async def Capture(self, request: payments_pb2.CaptureRequest, context: Any) -> payments_pb2.Payment:
        asked = payments_pb2.GetPaymentRequest(payment_id=request.payment_id)
        return await self.GetPayment(asked, context)


class Flatterer(Payments):
    """Agrees to everything it is asked, and took nothing."""

    async def _compared(self, belief: payments_pb2.ReconcileRequest) -> payments_pb2.ReconcileResponse:
        answer = await super()._compared(belief)
        answer.agrees = True
        answer.ours.state = payments_pb2.PAYMENT_STATE_AUTHORISED
        return answer


class Amnesiac(Orders):
    """Takes each repetition for a new order."""

    async def PlaceOrder(self, request: orders_pb2.PlaceOrderRequest, context: Any) -> orders_pb2.Order:
        request.idempotency_key = uuid4().hex
        return await super().PlaceOrder(request, context)


class Miscounting(Catalog):
    """Shows one more than there is to those who ask for a single product."""

    async def GetProduct(self, request: catalog_pb2.GetProductRequest, context: Any) -> catalog_pb2.Product:
        product = await super().GetProduct(request, context)
        product.stock += 1
        return product


class Generous(Payments):
    """Declines nobody."""

    async def Authorise(self, request: payments_pb2.AuthoriseRequest, context: Any) -> payments_pb2.Payment:
        request.customer = request.customer.removeprefix("broke-")
        return await super().Authorise(request, context)


async def test_a_visit_tells_each_order_and_ends_with_a_placed_one(shop: Shop) -> None:
    await shop.start()
    said: list[str] = []
    last = await Visit(shop.gateway, said.append).buy(20)
    orders = [line for line in said if line.startswith("order ")]
    assert len(orders) == 20
    assert sum("placed" in line for line in orders) == 19
    assert "refused   PAYMENT_DECLINED" in orders[1]
    assert last.order is not None
    assert last.order_id in orders[-1]
    assert [line.split()[0] for line in said if line not in orders] == [
        "imported",
        "listed",
        "repeated",
        "watched",
        "counted",
        "balanced",
    ]


async def test_two_visits_at_once_do_not_disturb_each_other(shop: Shop) -> None:
    await shop.start()
    visits = [Visit(shop.gateway, lambda _: None).buy(5) for _ in range(2)]
    outcomes = await asyncio.gather(*visits)
    assert len({outcome.trace_id for outcome in outcomes}) == 2


async def test_a_visit_notices_stock_that_does_not_add_up(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hauberk.services.shopper.visit.SEEN_S", 0.2)
    await shop.start(catalog=Thief(shop.stock, shop.leaving))
    with pytest.raises(ShopAmiss, match=r"never showed a stock of|should be left, and"):
        await Visit(shop.gateway, lambda _: None).buy(3)


async def test_a_visit_notices_money_that_was_not_taken(shop: Shop) -> None:
    await shop.start(payments=Forgetful(shop.till))
    with pytest.raises(ShopAmiss, match="books differ"):
        await Visit(shop.gateway, lambda _: None).buy(3)


async def test_a_visit_notices_sums_that_differ_though_the_books_agree(shop: Shop) -> None:
    await shop.start(payments=Flatterer(shop.till))
    with pytest.raises(ShopAmiss, match="and 0 were taken"):
        await Visit(shop.gateway, lambda _: None).buy(3)


async def test_a_visit_notices_an_order_that_is_placed_twice(shop: Shop) -> None:
    await shop.start(orders=Amnesiac)
    with pytest.raises(ShopAmiss, match="repeated with the same key"):
        await Visit(shop.gateway, lambda _: None).buy(3)


async def test_a_visit_notices_a_catalog_that_miscounts(shop: Shop) -> None:
    await shop.start(catalog=Miscounting(shop.stock, shop.leaving))
    with pytest.raises(ShopAmiss, match="should be left, and"):
        await Visit(shop.gateway, lambda _: None).buy(3)


async def test_a_visit_notices_an_order_that_should_have_been_refused(shop: Shop) -> None:
    await shop.start(payments=Generous(shop.till))
    with pytest.raises((ShopAmiss, grpc.aio.AioRpcError), match="should have been refused"):
        await Visit(shop.gateway, lambda _: None).buy(3)


async def test_a_steady_load_uses_every_shape_and_fails_nowhere(shop: Shop) -> None:
    await shop.start()
    summary = await Load(shop.gateway, asyncio.Event(), rate=100).run(1.5)
    summary.expect_none_failed()
    told = json.loads(summary.json())
    assert told["failed"] == 0
    assert told["calls"] >= 100
    assert set(told["calls_by_method"]) == {
        "PlaceOrder",
        "GetProduct",
        "ListProducts",
        "GetOrder",
        "Reconcile",
        "WatchOrder",
        "ImportProducts",
        "GetPayment",
        "WatchProducts",
    }
    assert told["stream_messages"] > 0
    assert told["streams_reopened"] == 0


async def test_a_load_counts_what_fails_and_says_what(shop: Shop) -> None:
    await shop.start()
    load = asyncio.ensure_future(Load(shop.gateway, asyncio.Event(), rate=50).run(1.5))
    await asyncio.sleep(0.7)
    await shop.street.close("payments")
    summary = await load
    told = json.loads(summary.json())
    assert told["failed_by_method"]["GetPayment"] >= 1
    assert told["failed_by_code"]["UNAVAILABLE"] >= 1
    assert "GetProduct" not in told["failed_by_method"]
    with pytest.raises(ShopAmiss, match="calls failed"):
        summary.expect_none_failed()


async def test_a_load_ends_when_the_process_is_told_to(shop: Shop) -> None:
    await shop.start()
    stopping = asyncio.Event()
    load = asyncio.ensure_future(Load(shop.gateway, stopping, rate=50).run(60))
    await asyncio.sleep(0.3)
    stopping.set()
    async with asyncio.timeout(5):
        assert (await load).seconds < 5


async def test_a_shop_that_opens_late_is_waited_for() -> None:
    answers = iter([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED, None])

    async def attempt() -> str:
        code = next(answers)
        if code is not None:
            raise failure(code)
        return "open"

    assert await until_open(attempt, within=5) == "open"


async def test_a_shop_that_never_opens_is_given_up_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "PAUSE_S", 0.01)

    async def attempt() -> None:
        raise failure(grpc.StatusCode.UNAVAILABLE)

    with pytest.raises(ShopAmiss, match="did not open within 0 s: UNAVAILABLE: said so"):
        await until_open(attempt, within=0.05)


async def test_a_shop_that_answers_wrongly_is_not_waited_for() -> None:
    async def attempt() -> None:
        raise failure(grpc.StatusCode.INTERNAL)

    with pytest.raises(grpc.aio.AioRpcError):
        await until_open(attempt, within=60)


@pytest.mark.parametrize(
    "wrong", [["--orders", "2"], ["--orders", "x"], ["--seconds", "0"], ["--rate", "nan"]]
)
def test_an_argument_that_makes_no_sense_is_refused(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read_arguments(wrong)
    assert "write a number" in capsys.readouterr().err


def failure(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="said so")
