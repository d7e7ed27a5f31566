"""The catalog as a process: `python -m hauberk.services.catalog.main`."""

import hauberk
from hauberk.protos.shop.catalog.v1.catalog_pb2_grpc import add_CatalogServicer_to_server
from hauberk.services.catalog.servicer import Catalog
from hauberk.services.catalog.store import CatalogStore
from hauberk.services.own_database import own_database


async def main() -> None:
    async with (
        hauberk.join() as mesh,
        own_database("hauberk.services.catalog", mesh.settings.state_dir) as engine,
    ):
        server = mesh.server()
        add_CatalogServicer_to_server(Catalog(CatalogStore(engine), mesh.stopping), server)
        await server.serve()


if __name__ == "__main__":
    hauberk.run(main)
