"""A service that sells tickets; test_tickets.py tests it behind its contract's checks."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import tickets_pb2
import tickets_pb2_grpc

import hauberk


class Tickets(tickets_pb2_grpc.TicketsServicer):
    def __init__(self) -> None:
        self.sold: dict[str, str] = {}
        self._sales = asyncio.Condition()

    async def Buy(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        holder = hauberk.current_call().token.subject
        if self.sold.setdefault(request.seat, holder) != holder:
            raise hauberk.Refused("seat is taken", reason="TAKEN", status=grpc.StatusCode.ALREADY_EXISTS)
        async with self._sales:
            self._sales.notify_all()
        return tickets_pb2.Ticket(seat=request.seat, holder=holder)

    async def WatchSales(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        told: set[str] = set()
        while True:
            async with self._sales:
                await self._sales.wait_for(lambda: self.sold.keys() > told)
            for seat in self.sold.keys() - told:
                yield tickets_pb2.Ticket(seat=seat, holder=self.sold[seat])
                told.add(seat)


async def main() -> None:
    async with hauberk.join() as mesh:
        server = mesh.server()
        tickets_pb2_grpc.add_TicketsServicer_to_server(Tickets(), server)
        await server.serve()


if __name__ == "__main__":
    hauberk.run(main)
