"""Customers of the shop who place orders and look at products all the time, and remember every answer."""

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from hauberk import hints
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.protos.shop.money.v1 import money_pb2
from hauberk.protos.shop.orders.v1 import orders_pb2, orders_pb2_grpc
from hauberk.services import refusal
from hauberk.services.shopper.opening import until_open

CALL_S = 2.0
"""The customers' patience."""
STOCK = 1_000_000
FINISHED_S = 30.0
"""An order's claim ends 15 s after whoever held it could not record any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How one call ended. `at` is when it began, monotonic."""

    method: str
    at: float
    took: float
    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: str = ""
    said: str = ""

    @property
    def ok(self) -> bool:
        return self.code is grpc.StatusCode.OK


class Customers:
    """Made by `customers`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._orders = orders_pb2_grpc.OrdersStub(channel)
        self._catalog = catalog_pb2_grpc.CatalogStub(channel)
        self._sku = f"FAULTS-{secrets.token_hex(4).upper()}"
        self.answers: list[Answer] = []
        self.acknowledged: set[str] = set()
        """Orders whose placement was told."""
        self._asked: dict[str, orders_pb2.PlaceOrderRequest] = {}
        """By key: what was asked for and not acknowledged."""

    @property
    def stocked(self) -> dict[str, int]:
        """What there was before the first order."""
        return {self._sku: STOCK}

    def since(self, moment: float, *methods: str) -> list[Answer]:
        """The answers to calls that began after `moment`."""
        return [each for each in self.answers if each.at >= moment and each.method in (methods or _METHODS)]

    def refused(self, moment: float, *methods: str) -> list[Answer]:
        return [each for each in self.since(moment, *methods) if not each.ok]

    async def open(self) -> None:
        """Have something to sell, and sell one."""
        await until_open(self._stock)
        await until_open(self._place)

    async def keep(self, rate: float) -> None:
        """So many calls a second, until cancelled; each is counted when it has ended."""
        calls = itertools.cycle((("PlaceOrder", self._place), ("GetProduct", self._look)))
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                method, call = next(calls)
                group.create_task(self._noted(method, call))

    async def well(self, *, within: float, in_a_row: int = 10) -> float:
        """Wait until that many calls in a row went well; when the first of them began."""
        since = time.monotonic()
        async with asyncio.timeout(within):
            while True:
                last = sorted(self.since(since), key=lambda each: each.at)[-in_a_row:]
                if len(last) == in_a_row and all(each.ok for each in last):
                    return last[0].at
                await asyncio.sleep(0.05)

    async def finish(self) -> None:
        """Ask again for each order that was not acknowledged, by the same key, until it has its end."""
        async with asyncio.timeout(FINISHED_S), asyncio.TaskGroup() as group:
            for request in list(self._asked.values()):
                group.create_task(self._finished(request))

    async def _finished(self, request: orders_pb2.PlaceOrderRequest) -> None:
        while True:
            try:
                order = await self._orders.PlaceOrder(request, timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                if error.code() in _FINAL:
                    return
                await asyncio.sleep(0.5)
            else:
                self.acknowledged.add(order.order_id)
                return

    async def _noted(self, method: str, call: Callable[[], Awaitable[object]]) -> None:
        at = time.monotonic()
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            answer = Answer(
                method=method,
                at=at,
                took=time.monotonic() - at,
                code=error.code(),
                reason=refusal.reason_of(error)[0] or hints.reason_of(error) or "",
                said=error.details() or "",
            )
        else:
            answer = Answer(method=method, at=at, took=time.monotonic() - at)
        self.answers.append(answer)

    async def _place(self) -> None:
        key = secrets.token_hex(16)
        line = orders_pb2.OrderLine(sku=self._sku, quantity=1)
        request = orders_pb2.PlaceOrderRequest(idempotency_key=key, customer="steady", lines=[line])
        self._asked[key] = request
        order = await self._orders.PlaceOrder(request, timeout=CALL_S)
        del self._asked[key]
        self.acknowledged.add(order.order_id)

    async def _look(self) -> None:
        await self._catalog.GetProduct(catalog_pb2.GetProductRequest(sku=self._sku), timeout=CALL_S)

    async def _stock(self) -> None:
        price = money_pb2.Money(currency="EUR", minor_units=100)
        product = catalog_pb2.Product(sku=self._sku, name="Goods", price=price, stock=STOCK)
        request = catalog_pb2.ImportProductsRequest(product=product)
        await self._catalog.ImportProducts(iter([request]), timeout=CALL_S)


@asynccontextmanager
async def customers(channel: grpc.aio.Channel, *, rate: float = 20.0) -> AsyncIterator[Customers]:
    """Customers who come from the moment all is well until the block is left."""
    made = Customers(channel)
    await made.open()
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(made.keep(rate))
        await made.well(within=10)
        yield made
        keeping.cancel()


UNSETTLED = {("ABORTED", "GAVE_UP"), ("UNAVAILABLE", "ORDER_UNSETTLED")}
"""How an order may end too that was between two of its steps when the fault came."""


def reasons(answers: Iterable[Answer]) -> set[tuple[str, str]]:
    """Every (code, reason) among them."""
    return {(each.code.name, each.reason) for each in answers}


_METHODS = ("PlaceOrder", "GetProduct")
_FINAL = frozenset({grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL})
