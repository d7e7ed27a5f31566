"""A replica that leaves while no control plane can be told: its callers find out by themselves."""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from hauberk.cli.local_mesh import CONTROL
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.protos.shop.money.v1 import money_pb2
from tests.mesh.fleet import fleet
from tests.mesh.running import shop

CALL_S = 5.0


@pytest.mark.soak
@pytest.mark.timeout(200)
async def test_calls_that_may_be_repeated_do_not_fail_and_the_others_are_unavailable(
    tmp_path: Path, soaking: bool
) -> None:
    """Core ends what reaches the replica as it stops as CANCELLED, which nobody would ask again for."""
    mesh_toml = re.sub(r"(?m)^\[workloads\.catalog\]$", r"\g<0>\nreplicas = 2", shop())
    async with fleet(tmp_path, mesh_toml, start=["catalog-1", "catalog-2"]) as mesh:
        catalog = catalog_pb2_grpc.CatalogStub((await mesh.member("gateway")).channel)
        price = money_pb2.Money(currency="EUR", minor_units=100)
        product = catalog_pb2.Product(sku="GOODS", name="goods", price=price, stock=5)

        async def repeatable() -> None:
            await catalog.GetProduct(catalog_pb2.GetProductRequest(sku="GOODS"), timeout=CALL_S)

        async def once() -> None:
            requests = iter([catalog_pb2.ImportProductsRequest(product=product)])
            await catalog.ImportProducts(requests, timeout=CALL_S)

        await once()
        for _ in range(2 if soaking else 1):
            codes = {"repeatable": Counter[str](), "once": Counter[str]()}
            ended = asyncio.Event()
            async with asyncio.TaskGroup() as callers:
                for _ in range(24):
                    callers.create_task(_keep_calling(repeatable, codes["repeatable"], ended))
                for _ in range(8):
                    callers.create_task(_keep_calling(once, codes["once"], ended))
                await asyncio.sleep(0.5)
                await mesh.kill(CONTROL)
                await mesh.stop("catalog-1")
                await asyncio.sleep(0.5)
                ended.set()
            print(codes)
            assert set(codes["repeatable"]) == {"OK"}, codes
            assert set(codes["once"]) <= {"OK", "UNAVAILABLE"}, codes
            assert codes["once"]["UNAVAILABLE"] <= 8, "each caller at most once"
            await mesh.start(CONTROL)
            await mesh.serving(CONTROL, "catalog-2")
            await mesh.start("catalog-1")
            await mesh.serving("catalog-1")


async def _keep_calling(
    call: Callable[[], Awaitable[None]], codes: Counter[str], ended: asyncio.Event
) -> None:
    while not ended.is_set():
        try:
            await call()
            codes["OK"] += 1
        except grpc.aio.AioRpcError as error:
            codes[error.code().name] += 1
