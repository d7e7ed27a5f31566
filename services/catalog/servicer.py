"""shop.catalog.v1.Catalog: reads in pages, imports whole or not at all, and watches.

A watch sends what it finds changed, whoever changed it: it is woken by this process's own writes, and looks
by itself every POLL_S for those of a twin replica.
"""

# ruff: noqa: N802 (the contract names the methods)

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime
from typing import Any

import grpc

from hauberk.certs.clock import utc_now
from hauberk.certs.watch import Watch
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.services.catalog.errors import ImportTooLong
from hauberk.services.catalog.store import CatalogStore, Line, Product, Reservation, State
from hauberk.services.look_up import look_up
from hauberk.services.money import Money
from hauberk.services.refusal import Draining, InvalidFields, answering

Context = grpc.aio.ServicerContext[Any, Any]

PAGE = 200
IMPORT_MOST = 1000
POLL_S = 1.0
"""How long a watch takes at most to see what another process wrote."""
GATHER_S = 0.05
"""Changes that come this close together are sent as one."""

_STATES = {
    State.HELD: catalog_pb2.Reservation.STATE_HELD,
    State.RELEASED: catalog_pb2.Reservation.STATE_RELEASED,
}


class Catalog(catalog_pb2_grpc.CatalogServicer):
    """`leaving` is set when the process is about to stop: watches then end, so that they don't hold it up."""

    def __init__(
        self, store: CatalogStore, leaving: asyncio.Event, *, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._store = store
        self._leaving = leaving
        self._now = now
        self._changes = Watch(None)

    async def GetProduct(
        self, request: catalog_pb2.GetProductRequest, context: Context
    ) -> catalog_pb2.Product:
        async with answering(context):
            return _product_message(await look_up(self._store.product, request.sku))

    async def ListProducts(  # type: ignore[override]
        self, request: catalog_pb2.ListProductsRequest, context: Context
    ) -> None:
        async with answering(context):
            async for product in self._all():
                await context.write(_product_message(product))

    async def WatchProducts(  # type: ignore[override]
        self, request: catalog_pb2.WatchProductsRequest, context: Context
    ) -> None:
        async with answering(context):
            skus = frozenset(request.skus)
            sent: dict[str, Product] = {}
            while not self._leaving.is_set():
                seen = self._changes.version
                for product in await self._current(skus):
                    if sent.get(product.sku) != product:
                        await context.write(_product_message(product))
                        sent[product.sku] = product
                await self._next_change(seen)
            raise Draining

    async def ImportProducts(
        self,
        request_iterator: AsyncIterator[catalog_pb2.ImportProductsRequest],
        context: Context,
    ) -> catalog_pb2.ImportProductsResponse:
        async with answering(context):
            imported: list[Product] = []
            async for request in request_iterator:
                if len(imported) == IMPORT_MOST:
                    raise ImportTooLong(IMPORT_MOST)
                imported.append(_product(request.product, now=self._now()))
            _check_once_each(imported)
            added, replaced = await asyncio.to_thread(self._store.import_products, imported)
            self._changes.set(None)
            return catalog_pb2.ImportProductsResponse(added=added, replaced=replaced)

    async def ReserveStock(
        self, request: catalog_pb2.ReserveStockRequest, context: Context
    ) -> catalog_pb2.Reservation:
        async with answering(context):
            lines = tuple(Line(line.sku, line.quantity) for line in request.lines)
            held = await asyncio.to_thread(
                self._store.reserve, request.reservation_id, lines, now=self._now()
            )
            self._changes.set(None)
            return _reservation_message(held)

    async def ReleaseStock(
        self, request: catalog_pb2.ReleaseStockRequest, context: Context
    ) -> catalog_pb2.Reservation:
        async with answering(context):
            released = await asyncio.to_thread(self._store.release, request.reservation_id, now=self._now())
            self._changes.set(None)
            return _reservation_message(released)

    async def _all(self) -> AsyncIterator[Product]:
        after = ""
        while page := await look_up(self._store.page, after=after, limit=PAGE):
            for product in page:
                yield product
            after = page[-1].sku

    async def _current(self, skus: frozenset[str]) -> list[Product]:
        if skus:
            return await look_up(self._store.products, skus)
        return [product async for product in self._all()]

    async def _next_change(self, seen: int) -> None:
        """Return when something may have changed since version `seen`, after POLL_S at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._changes.next(seen)
                await asyncio.sleep(GATHER_S)


def _product(given: catalog_pb2.Product, *, now: datetime) -> Product:
    return Product(
        sku=given.sku, name=given.name, price=Money.of(given.price), stock=given.stock, updated_at=now
    )


def _check_once_each(products: Iterable[Product]) -> None:
    """Raises InvalidFields if a stream brings one product twice: which of the two would hold?"""
    first: dict[str, int] = {}
    again = [index for index, product in enumerate(products) if first.setdefault(product.sku, index) != index]
    if again:
        raise InvalidFields(
            (f"requests[{index}].product.sku", "must be in one message only") for index in again
        )


def _product_message(product: Product) -> catalog_pb2.Product:
    message = catalog_pb2.Product(
        sku=product.sku, name=product.name, price=product.price.message(), stock=product.stock
    )
    message.updated_at.FromDatetime(product.updated_at)
    return message


def _reservation_message(reservation: Reservation) -> catalog_pb2.Reservation:
    return catalog_pb2.Reservation(
        reservation_id=reservation.reservation_id,
        state=_STATES[reservation.state],
        lines=[catalog_pb2.Line(sku=line.sku, quantity=line.quantity) for line in reservation.lines],
        total=None if reservation.total is None else reservation.total.message(),
    )
