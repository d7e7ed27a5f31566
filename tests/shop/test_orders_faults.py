"""An order in the middle of which something fails: it ends placed or undone, and says which."""

# ruff: noqa: N802 (the contract names the methods)

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from hauberk.interceptors.call import current_call
from hauberk.protos.shop.catalog.v1 import catalog_pb2
from hauberk.protos.shop.orders.v1 import orders_pb2
from hauberk.protos.shop.payments.v1 import payments_pb2
from hauberk.services.catalog.errors import OutOfStock
from hauberk.services.catalog.servicer import Catalog
from hauberk.services.orders.store import Line, Order, Placement
from hauberk.services.payments.errors import PaymentUnknown
from hauberk.services.payments.servicer import Payments
from hauberk.services.payments.store import State
from hauberk.services.refusal import answering
from tests.shop.said import order_id_of, reason, refused
from tests.shop.stage import NewShop, Shop

WITHIN_S = 5
WANTED = Placement(idempotency_key="k1", customer="ann", lines=(Line("T-HELM", 2),))
REQUEST = orders_pb2.PlaceOrderRequest(
    idempotency_key="k1", customer="ann", lines=[orders_pb2.OrderLine(sku="T-HELM", quantity=2)]
)
SETTLED_S = 8


class SlowPayments(Payments):
    """Captures, and answers only when told to `go`; `captured` says it has."""

    def __init__(self, shop: Shop) -> None:
        super().__init__(shop.till)
        self.captured = asyncio.Event()
        self.go = asyncio.Event()

    async def Capture(self, request: payments_pb2.CaptureRequest, context: Any) -> payments_pb2.Payment:
        payment = await super().Capture(request, context)
        self.captured.set()
        await self.go.wait()
        return payment


class BrokenCatalog(Catalog):
    """Fails with a status and a text that are none of the customer's business."""

    code = grpc.StatusCode.INTERNAL

    async def ReserveStock(
        self, request: catalog_pb2.ReserveStockRequest, context: Any
    ) -> catalog_pb2.Reservation:
        await context.abort(self.code, "secret of the catalog")
        raise AssertionError


class ConfusedCatalog(Catalog):
    """Complains about goods that nobody ordered."""

    async def ReserveStock(
        self, request: catalog_pb2.ReserveStockRequest, context: Any
    ) -> catalog_pb2.Reservation:
        async with answering(context):
            raise OutOfStock("SECRET-OF-ANOTHER")


class TracedCatalog(Catalog):
    """Notes the trace of each call."""

    traces: list[tuple[str, str]]

    async def ReserveStock(
        self, request: catalog_pb2.ReserveStockRequest, context: Any
    ) -> catalog_pb2.Reservation:
        self._note()
        return await super().ReserveStock(request, context)

    async def ReleaseStock(
        self, request: catalog_pb2.ReleaseStockRequest, context: Any
    ) -> catalog_pb2.Reservation:
        self._note()
        return await super().ReleaseStock(request, context)

    def _note(self) -> None:
        call = current_call()
        assert call is not None
        self.traces.append((call.method.rpartition("/")[2], call.trace.trace_id))


@pytest.fixture
def shop(new_shop: NewShop) -> Shop:
    """Not started yet."""
    shop = new_shop()
    shop.sell("T-HELM", 5000, 10)
    return shop


async def settled(shop: Shop, order_id: str) -> orders_pb2.Order:
    """The order once it is final, as a watch shows it."""
    request = orders_pb2.WatchOrderRequest(order_id=order_id)
    seen = [each async for each in shop.orders.WatchOrder(request, timeout=SETTLED_S)]
    return seen[-1]


def only_order(shop: Shop) -> Order:
    order, claim = shop.books.open(WANTED, now=datetime.now(UTC))
    assert claim is None, "there was no order yet, or nobody worked on it"
    return order


@pytest.mark.alone
async def test_a_callee_that_does_not_answer_in_time_is_undone_within_the_callers_deadline(
    shop: Shop,
) -> None:
    slow = SlowPayments(shop)
    await shop.start(payments=slow)
    began = time.monotonic()
    error = await refused(shop.orders.PlaceOrder(REQUEST, timeout=1.5))
    assert time.monotonic() - began < 1.5
    assert (error.code(), reason(error)) == (grpc.StatusCode.ABORTED, "GAVE_UP")
    assert "payments did not answer in time" in (error.details() or "")
    assert "nothing kept or taken" in (error.details() or "")
    assert shop.left("T-HELM") == 10
    assert shop.till.payment(order_id_of(error)).state is State.REFUNDED
    assert (await refused(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))).details() == error.details()


async def test_a_caller_who_hangs_up_in_the_middle_leaves_a_whole_order(shop: Shop) -> None:
    slow = SlowPayments(shop)
    await shop.start(payments=slow)
    call = shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S)
    hanging = asyncio.ensure_future(call)
    await slow.captured.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    slow.go.set()
    placed = await settled(shop, only_order(shop).order_id)
    assert placed.status == orders_pb2.ORDER_STATUS_PLACED
    assert shop.left("T-HELM") == 8
    assert await shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S) == placed


@pytest.mark.alone
async def test_a_callers_deadline_that_passes_while_the_order_is_undone_does_not_stop_that(
    shop: Shop,
) -> None:
    class SlowToRefund(SlowPayments):
        async def Refund(self, request: payments_pb2.RefundRequest, context: Any) -> payments_pb2.Payment:
            await asyncio.sleep(0.5)
            return await super().Refund(request, context)

    await shop.start(payments=SlowToRefund(shop))
    error = await refused(shop.orders.PlaceOrder(REQUEST, timeout=0.6))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    failed = await settled(shop, only_order(shop).order_id)
    assert failed.status == orders_pb2.ORDER_STATUS_FAILED
    assert shop.left("T-HELM") == 10
    assert shop.till.payment(failed.order_id).state is State.REFUNDED


async def test_what_cannot_be_undone_now_is_undone_when_the_same_key_asks_again(shop: Shop) -> None:
    await shop.start()
    await shop.street.close("payments")
    error = await refused(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "ORDER_UNSETTLED")
    assert "payments is not available" in (error.details() or "")
    assert shop.left("T-HELM") == 10, "goods go back even where money cannot yet"
    assert not shop.books.order(order_id_of(error)).final

    await shop.street.serve("payments", shop.new_payments())
    error = await refused(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (grpc.StatusCode.ABORTED, "GAVE_UP")
    assert shop.books.order(order_id_of(error)).final
    with pytest.raises(PaymentUnknown):
        shop.till.payment(order_id_of(error))


async def test_a_catalog_that_is_away_leaves_nothing_reserved_later(shop: Shop) -> None:
    await shop.start()
    await shop.street.close("catalog")
    error = await refused(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "ORDER_UNSETTLED")
    await shop.street.serve("catalog", shop.new_catalog())
    error = await refused(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (grpc.StatusCode.ABORTED, "GAVE_UP")
    assert shop.left("T-HELM") == 10


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
    ],
)
async def test_a_callee_that_breaks_is_not_quoted(
    shop: Shop, code: grpc.StatusCode, caplog: pytest.LogCaptureFixture
) -> None:
    broken = BrokenCatalog(shop.stock, shop.leaving)
    broken.code = code
    await shop.start(catalog=broken)
    error = await refused(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (grpc.StatusCode.INTERNAL, "CALLEE_FAILED")
    assert "catalog could not do its part" in (error.details() or "")
    assert "secret" not in str(error)
    assert f"{code.name} : secret of the catalog" in caplog.text
    assert shop.books.order(order_id_of(error)).final


async def test_a_callee_is_believed_about_goods_of_the_order_only(shop: Shop) -> None:
    await shop.start(catalog=ConfusedCatalog(shop.stock, shop.leaving))
    error = await refused(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    assert reason(error) == "OUT_OF_STOCK"
    assert "not enough left of one of the products" in (error.details() or "")


async def test_an_order_that_a_twin_replica_works_on_is_waited_for(shop: Shop) -> None:
    slow = SlowPayments(shop)
    await shop.start(payments=slow)
    first = asyncio.ensure_future(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    await slow.captured.wait()
    await shop.street.serve("orders", shop.new_orders(), replica=2)
    second = asyncio.ensure_future(shop.as_replica(2).PlaceOrder(REQUEST, timeout=WITHIN_S))
    slow.go.set()
    assert await first == await second
    assert shop.left("T-HELM") == 8


@pytest.mark.alone
async def test_an_order_still_being_placed_when_time_runs_out_says_so(shop: Shop) -> None:
    slow = SlowPayments(shop)
    await shop.start(payments=slow)
    first = asyncio.ensure_future(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    await slow.captured.wait()
    error = await refused(shop.orders.PlaceOrder(REQUEST, timeout=0.5))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "ORDER_UNSETTLED")
    assert "still being placed" in (error.details() or "")
    slow.go.set()
    assert (await first).order_id == order_id_of(error)


async def test_a_watch_shows_the_order_on_its_way(shop: Shop) -> None:
    slow = SlowPayments(shop)
    await shop.start(payments=slow)
    placing = asyncio.ensure_future(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    await slow.captured.wait()
    request = orders_pb2.WatchOrderRequest(order_id=only_order(shop).order_id)
    changes = aiter(shop.orders.WatchOrder(request, timeout=WITHIN_S))
    assert (await anext(changes)).status == orders_pb2.ORDER_STATUS_RESERVED
    slow.go.set()
    rest = [each async for each in changes]
    assert rest[-1] == await placing


async def test_watches_end_when_the_process_leaves(shop: Shop) -> None:
    slow = SlowPayments(shop)
    await shop.start(payments=slow)
    placing = asyncio.ensure_future(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    await slow.captured.wait()
    request = orders_pb2.WatchOrderRequest(order_id=only_order(shop).order_id)
    changes = aiter(shop.orders.WatchOrder(request, timeout=WITHIN_S))
    await anext(changes)
    shop.leaving.set()
    error = await refused(anext(changes))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    slow.go.set()
    await placing


async def test_steps_forward_and_back_belong_to_the_callers_trace(shop: Shop) -> None:
    traced = TracedCatalog(shop.stock, shop.leaving)
    traced.traces = []
    await shop.start(catalog=traced)
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (("traceparent", f"00-{trace}-b7ad6b7169203331-01"),)
    request = orders_pb2.PlaceOrderRequest(idempotency_key="k2", customer="broke-bob", lines=REQUEST.lines)
    await refused(shop.orders.PlaceOrder(request, timeout=WITHIN_S, metadata=metadata))
    assert traced.traces == [("ReserveStock", trace), ("ReleaseStock", trace)]


async def test_a_database_that_is_away_is_unavailable(shop: Shop) -> None:
    await shop.start()
    shop.lose_database("orders")
    error = await refused(shop.orders.PlaceOrder(REQUEST, timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert "sqlite" not in str(error.details()).lower()
