"""A lock that somebody holds and does not give back keeps those who write waiting, and nobody who reads."""

import asyncio
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tests.shop.stage import NewShop, Shop

WRITERS = 40
"""More than a process has threads, even where it has many cores."""
CONNECTIONS = 15
"""More than SQLAlchemy would open by itself."""


@pytest.mark.alone
async def test_reads_are_answered_while_writes_wait_for_a_lock(new_shop: NewShop) -> None:
    """As it is while a process is frozen in the middle of a write to the SQLite file that both have."""
    shop = new_shop()
    shop.sell("T-BOOT", 500, 10)
    await shop.start()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CONNECTIONS + 1))
    file = shop.stock._engine.url.database or ""
    with closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        writes = [asyncio.create_task(release(shop, f"none-{number}")) for number in range(WRITERS)]
        await asyncio.sleep(0.5)
        began = time.monotonic()
        for _ in range(20):
            await shop.catalog.GetProduct(catalog_pb2.GetProductRequest(sku="T-BOOT"), timeout=2)
        assert time.monotonic() - began < 2
        assert not any(write.done() for write in writes)
        holder.execute("ROLLBACK")
    await asyncio.gather(*writes)


async def release(shop: Shop, reservation_id: str) -> None:
    """A write that changes nothing that matters here."""
    request = catalog_pb2.ReleaseStockRequest(reservation_id=reservation_id)
    await catalog_pb2_grpc.CatalogStub(shop.street.channel("orders")).ReleaseStock(request, timeout=5)
