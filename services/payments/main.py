"""The payments as a process: `python -m hauberk.services.payments.main`."""

import hauberk
from hauberk.protos.shop.payments.v1.payments_pb2_grpc import add_PaymentsServicer_to_server
from hauberk.services.own_database import own_database
from hauberk.services.payments.servicer import Payments
from hauberk.services.payments.store import PaymentStore


async def main() -> None:
    async with (
        hauberk.join() as mesh,
        own_database("hauberk.services.payments", mesh.settings.state_dir) as engine,
    ):
        server = mesh.server()
        add_PaymentsServicer_to_server(Payments(PaymentStore(engine)), server)
        await server.serve()


if __name__ == "__main__":
    hauberk.run(main)
