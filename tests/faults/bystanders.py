"""Callers whom a fault should not touch: a steady load over every shape of call, and none may fail."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import grpc

from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.protos.shop.money.v1 import money_pb2
from hauberk.protos.shop.orders.v1 import orders_pb2, orders_pb2_grpc
from hauberk.protos.shop.payments.v1 import payments_pb2, payments_pb2_grpc
from hauberk.services.shopper.purchase import Purchase
from tests.mesh.fleet import Fleet

NOBODY = "0" * 32
"""An order or payment that there is not."""


@dataclass(slots=True)
class Tally:
    """What a bystander called, and what of it failed."""

    calls: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


class Bystanders:
    """Callers that nobody revoked, over every shape of call, by the mesh's own routes."""

    def __init__(self, orders: grpc.aio.Channel, batch: grpc.aio.Channel, operator: grpc.aio.Channel) -> None:
        self.over = asyncio.Event()
        self._catalog = catalog_pb2_grpc.CatalogStub(orders)
        self._payments = payments_pb2_grpc.PaymentsStub(orders)
        self._orders = orders_pb2_grpc.OrdersStub(batch)
        self._import = catalog_pb2_grpc.CatalogStub(operator)

    @classmethod
    async def of(cls, mesh: Fleet) -> "Bystanders":
        orders, batch = await mesh.member("orders"), await mesh.member("batch/night")
        assert mesh.local._operator is not None
        made = cls(orders.channel, batch.channel, mesh.local._operator.channel)
        for call in made._calls().values():
            await eventually_answers(call)
        return made

    def loads(self) -> list[Coroutine[Any, Any, Tally]]:
        return [*(self._steady(name, call) for name, call in self._calls().items()), self._watching()]

    def _calls(self) -> dict[str, Callable[[], Awaitable[object]]]:
        async def listing() -> None:
            async for _ in self._catalog.ListProducts(catalog_pb2.ListProductsRequest(), timeout=5):
                pass

        async def reconciling() -> None:
            async for _ in self._payments.Reconcile(iter([_belief()]), timeout=5):
                pass

        return {
            "GetProduct": lambda: absent(
                self._catalog.GetProduct(catalog_pb2.GetProductRequest(sku="NONE"), timeout=5)
            ),
            "GetPayment": lambda: absent(
                self._payments.GetPayment(payments_pb2.GetPaymentRequest(payment_id=NOBODY), timeout=5)
            ),
            "ImportProducts": lambda: self._import.ImportProducts(iter([_product()]), timeout=5),
            "PlaceOrder": lambda: self._orders.PlaceOrder(_order(), timeout=5),
            "ListProducts": listing,
            "Reconcile": reconciling,
        }

    async def _steady(self, name: str, call: Callable[[], Awaitable[object]]) -> Tally:
        tally = Tally()
        while not self.over.is_set():
            tally.calls[name] += 1
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                tally.failed.append(f"{name} {error.code().name}: {error.details()}")
            await asyncio.sleep(0.05)
        return tally

    async def _watching(self) -> Tally:
        """One stream, from before the revocation until all is over."""
        tally = Tally()
        watch: Any = self._catalog.WatchProducts(catalog_pb2.WatchProductsRequest())
        reading = asyncio.create_task(_drained(watch, tally))
        await self.over.wait()
        assert not reading.done(), tally.failed
        watch.cancel()
        await asyncio.wait([reading])
        return tally


async def _drained(watch: Any, tally: Tally) -> None:
    try:
        async for _ in watch:
            tally.calls["WatchProducts"] += 1
    except grpc.aio.AioRpcError as error:
        tally.failed.append(f"WatchProducts {error.code().name}: {error.details()}")


async def eventually_answers(call: Callable[[], Awaitable[object]]) -> None:
    """Wait for the routes of a caller that has just come."""
    ends = time.monotonic() + 15
    while True:
        try:
            await call()
        except grpc.aio.AioRpcError:
            if time.monotonic() > ends:
                raise
            await asyncio.sleep(0.1)
        else:
            return


async def absent(call: Awaitable[object]) -> None:
    """An answer about something that there is not: NOT_FOUND, and nothing else."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise


def _product() -> catalog_pb2.ImportProductsRequest:
    price = money_pb2.Money(currency="EUR", minor_units=100)
    return catalog_pb2.ImportProductsRequest(
        product=catalog_pb2.Product(sku="BYSTANDER", name="Bystander", price=price, stock=1_000_000)
    )


def _order() -> orders_pb2.PlaceOrderRequest:
    return Purchase(key=secrets.token_hex(16), customer="bystander", basket={"BYSTANDER": 1}).request()


def _belief() -> payments_pb2.ReconcileRequest:
    amount = money_pb2.Money(currency="EUR", minor_units=100)
    return payments_pb2.ReconcileRequest(
        payment_id=secrets.token_hex(16), amount=amount, state=payments_pb2.PAYMENT_STATE_CAPTURED
    )
