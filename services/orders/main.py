"""The orders as a process: `python -m hauberk.services.orders.main`."""

import hauberk
from hauberk.protos.shop.orders.v1.orders_pb2_grpc import add_OrdersServicer_to_server
from hauberk.services.orders.callees import Callees
from hauberk.services.orders.errands import Errands
from hauberk.services.orders.recovery import Recovery
from hauberk.services.orders.servicer import Orders
from hauberk.services.orders.store import OrderStore
from hauberk.services.own_database import own_database


async def main() -> None:
    # The errands end before the database and the mesh they need.
    async with (
        hauberk.join() as mesh,
        own_database("hauberk.services.orders", mesh.settings.state_dir) as engine,
        Errands() as errands,
    ):
        server = mesh.server()
        store = OrderStore(engine)
        orders = Orders(store, Callees(mesh.channel), errands, mesh.stopping)
        add_OrdersServicer_to_server(orders, server)
        async with Recovery(store, orders.saga, mesh.stopping):
            await server.serve()


if __name__ == "__main__":
    hauberk.run(main)
