"""What the tests of faults stand on: a killed process stays dead until it is started again."""

from pathlib import Path

import grpc

from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tests.mesh.fleet import fleet
from tests.mesh.running import shop


async def test_killed_replica_stays_dead_until_started_again(tmp_path: Path) -> None:
    async with fleet(tmp_path, shop(), start=["catalog-1"]) as mesh:
        caller = await mesh.member("gateway")
        catalog = catalog_pb2_grpc.CatalogStub(caller.channel)
        assert await _answers(catalog) is grpc.StatusCode.NOT_FOUND
        await mesh.kill("catalog-1")
        assert await _answers(catalog) is grpc.StatusCode.UNAVAILABLE
        await mesh.start("catalog-1")
        await mesh.serving("catalog-1")
        assert await _answers(catalog) is grpc.StatusCode.NOT_FOUND
        assert mesh.said("catalog-1", "listens on")


async def _answers(catalog: "catalog_pb2_grpc.CatalogAsyncStub") -> grpc.StatusCode:
    """How a question about a product that nobody sells is answered."""
    try:
        await catalog.GetProduct(catalog_pb2.GetProductRequest(sku="NONE"), timeout=2)
    except grpc.aio.AioRpcError as error:
        return error.code()
    raise AssertionError("there is such a product")
