"""A steady load on the shop, over every shape of call, that counts what fails.

Calls leave at a fixed rate, whatever the answers take, so a stall shows as calls in flight and not as a
pause. A watch stays open all the time. A stream that is cut (UNAVAILABLE) after it has brought something and
is opened again is counted as reopened and not as failed: connections of the mesh end by age.
"""

import asyncio
import itertools
import json
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass, field

import grpc

from hauberk import resume
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.protos.shop.money.v1 import money_pb2
from hauberk.protos.shop.orders.v1 import orders_pb2, orders_pb2_grpc
from hauberk.protos.shop.payments.v1 import payments_pb2, payments_pb2_grpc
from hauberk.services.shopper.errors import ShopAmiss
from hauberk.services.shopper.opening import CALL_S, until_open
from hauberk.services.shopper.purchase import ORDER_S, Purchase

IN_FLIGHT_MOST = 64
SAMPLES = 10
STOCK = 1_000_000
"""Of the goods that are ordered, before the first order; nothing sets it again."""


@dataclass(slots=True)
class Summary:
    """What a load did. `calls` and `failed` are by method; `samples` are the first failures, in words."""

    seconds: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)
    skipped: int = 0
    reopened: int = 0
    streamed: int = 0
    ms: list[float] = field(default_factory=list)

    def expect_none_failed(self) -> None:
        """Raises ShopAmiss if a call failed, or none was made."""
        if self.failed:
            raise ShopAmiss(f"{self.failed.total()} of {self.calls.total()} calls failed: {self.samples[0]}")
        if not self.calls:
            raise ShopAmiss("no call was made")

    def json(self) -> str:
        return json.dumps(
            {
                "seconds": round(self.seconds, 3),
                "calls": self.calls.total(),
                "failed": self.failed.total(),
                "calls_by_method": dict(self.calls),
                "failed_by_method": dict(self.failed),
                "failed_by_code": dict(self.codes),
                "failures": self.samples,
                "skipped": self.skipped,
                "streams_reopened": self.reopened,
                "stream_messages": self.streamed,
                "p50_ms": self._quantile(0.50),
                "p99_ms": self._quantile(0.99),
                "longest_ms": self._quantile(1.0),
            }
        )

    def __str__(self) -> str:
        return (
            f"{self.calls.total()} calls in {self.seconds:.1f} s, {self.failed.total()} failed, "
            f"{self.reopened} streams reopened, p50 {self._quantile(0.5)} ms, p99 {self._quantile(0.99)} ms"
        )

    def _quantile(self, share: float) -> float:
        ordered = sorted(self.ms) or [0.0]
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)


class Load:
    """`rate` is calls per second over all methods; the load ends early when `stopping` is set."""

    def __init__(self, channel: grpc.aio.Channel, stopping: asyncio.Event, *, rate: float) -> None:
        self._catalog = catalog_pb2_grpc.CatalogStub(channel)
        self._orders = orders_pb2_grpc.OrdersStub(channel)
        self._payments = payments_pb2_grpc.PaymentsStub(channel)
        self._stopping = stopping
        self._rate = rate
        self.own = f"LOAD-{secrets.token_hex(4).upper()}"
        """The goods that are ordered."""
        self._placed: deque[orders_pb2.Order] = deque(maxlen=20)
        self._summary = Summary()

    async def run(self, seconds: float) -> Summary:
        """Keep the load up for that long. Raises ShopAmiss if the shop does not open."""
        await until_open(self._stock)
        self._placed.append(await until_open(self._place))
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._keep_watching())
            await self._keep_calling(began + seconds)
            watch.cancel()
        self._summary.seconds = time.monotonic() - began
        return self._summary

    async def _keep_calling(self, until: float) -> None:
        calls: list[tuple[str, Callable[[], Awaitable[object]]]] = [
            ("PlaceOrder", self._place_and_remember),
            ("GetProduct", self._get_product),
            ("ListProducts", self._list),
            ("GetOrder", self._get_order),
            ("Reconcile", self._reconcile),
            ("WatchOrder", self._watch_order),
            ("ImportProducts", self._import),
            ("GetPayment", self._get_payment),
        ]
        in_flight: set[asyncio.Task[None]] = set()
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, (method, call) in enumerate(itertools.cycle(calls)):
                await asyncio.sleep(max(0.0, start + number / self._rate - time.monotonic()))
                if time.monotonic() >= until or self._stopping.is_set():
                    return
                if len(in_flight) >= IN_FLIGHT_MOST:
                    self._summary.skipped += 1
                    continue
                task = group.create_task(self._counted(method, call))
                in_flight.add(task)
                task.add_done_callback(in_flight.discard)

    async def _counted(self, method: str, call: Callable[[], Awaitable[object]]) -> None:
        self._summary.calls[method] += 1
        began = time.perf_counter()
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            self._note_failure(method, error)
        except ShopAmiss as amiss:
            self._note(method, "AMISS", str(amiss))
        self._summary.ms.append(1000 * (time.perf_counter() - began))

    def _note_failure(self, method: str, error: grpc.aio.AioRpcError) -> None:
        self._note(method, error.code().name, error.details() or "")

    def _note(self, method: str, code: str, text: str) -> None:
        self._summary.failed[method] += 1
        self._summary.codes[code] += 1
        if len(self._summary.samples) < SAMPLES:
            self._summary.samples.append(f"{method} {code}: {text}")

    async def _keep_watching(self) -> None:
        opened = itertools.count()

        def open_watch(_: None) -> AsyncIterable[catalog_pb2.Product]:
            self._summary.reopened += next(opened) > 0
            return self._catalog.WatchProducts(catalog_pb2.WatchProductsRequest(skus=[self.own]))

        self._summary.calls["WatchProducts"] += 1
        try:
            async for _ in resume(open_watch, lambda _: None):
                self._summary.streamed += 1
        except grpc.aio.AioRpcError as error:
            self._note_failure("WatchProducts", error)

    async def _place(self) -> orders_pb2.Order:
        wanted = Purchase(key=secrets.token_hex(16), customer="steady", basket={self.own: 1})
        return await self._orders.PlaceOrder(wanted.request(), timeout=ORDER_S)

    async def _place_and_remember(self) -> None:
        self._placed.append(await self._place())

    async def _get_product(self) -> None:
        await self._catalog.GetProduct(catalog_pb2.GetProductRequest(sku=self.own), timeout=CALL_S)

    async def _list(self) -> None:
        async for _ in self._catalog.ListProducts(catalog_pb2.ListProductsRequest(), timeout=CALL_S):
            self._summary.streamed += 1

    async def _get_order(self) -> None:
        order = self._placed[0]
        request = orders_pb2.GetOrderRequest(order_id=order.order_id)
        if await self._orders.GetOrder(request, timeout=CALL_S) != order:
            raise ShopAmiss(f"order {order.order_id} is not what was placed")

    async def _watch_order(self) -> None:
        request = orders_pb2.WatchOrderRequest(order_id=self._placed[-1].order_id)
        async for _ in self._orders.WatchOrder(request, timeout=CALL_S):
            self._summary.streamed += 1

    async def _get_payment(self) -> None:
        order = self._placed[-1]
        payment = await self._payments.GetPayment(
            payments_pb2.GetPaymentRequest(payment_id=order.order_id), timeout=CALL_S
        )
        if payment.state != payments_pb2.PAYMENT_STATE_CAPTURED or payment.amount != order.total:
            raise ShopAmiss(f"order {order.order_id} is placed, and its payment is not")

    async def _reconcile(self) -> None:
        believed = {order.order_id: order.total for order in self._placed}

        def ask_after(last: str | None) -> AsyncIterable[payments_pb2.ReconcileResponse]:
            self._summary.reopened += last is not None
            left = itertools.islice(
                believed.items(), 0 if last is None else [*believed].index(last) + 1, None
            )
            beliefs = (
                payments_pb2.ReconcileRequest(
                    payment_id=payment_id, amount=amount, state=payments_pb2.PAYMENT_STATE_CAPTURED
                )
                for payment_id, amount in left
            )
            return self._payments.Reconcile(beliefs, timeout=CALL_S)

        async for answer in resume(ask_after, lambda answer: answer.payment_id, attempts=1):
            self._summary.streamed += 1
            if not answer.agrees:
                raise ShopAmiss(f"the books differ on order {answer.payment_id}")

    async def _stock(self) -> None:
        await self._bring(self.own)

    async def _import(self) -> None:
        """Other goods than those that are ordered, whose stock the books are held against."""
        await self._bring(f"{self.own}-NEXT")

    async def _bring(self, sku: str) -> None:
        price = money_pb2.Money(currency="EUR", minor_units=100)
        goods = catalog_pb2.Product(sku=sku, name="Steady goods", price=price, stock=STOCK)
        request = catalog_pb2.ImportProductsRequest(product=goods)
        await self._catalog.ImportProducts(iter([request]), timeout=CALL_S)
