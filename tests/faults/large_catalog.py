"""A catalog whose every product has a name of 4 MiB, but for one: `python -m tests.faults.large_catalog`."""

from typing import Any

import hauberk
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.services.catalog.servicer import Catalog
from hauberk.services.catalog.store import CatalogStore
from hauberk.services.own_database import own_database

NAME = "x" * (4 * 2**20 - 100)


class LargeCatalog(Catalog):
    """As the shop's, but that its products are made up."""

    async def GetProduct(  # noqa: N802 - the contract's name
        self, request: catalog_pb2.GetProductRequest, context: Any
    ) -> catalog_pb2.Product:
        return catalog_pb2.Product(sku=request.sku, name=NAME if request.sku == "LARGE" else "small")


async def main() -> None:
    async with (
        hauberk.join() as mesh,
        own_database("hauberk.services.catalog", mesh.settings.state_dir) as engine,
    ):
        server = mesh.server()
        catalog_pb2_grpc.add_CatalogServicer_to_server(
            LargeCatalog(CatalogStore(engine), mesh.stopping), server
        )
        await server.serve()


if __name__ == "__main__":
    hauberk.run(main)
