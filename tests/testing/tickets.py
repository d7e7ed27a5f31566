"""Servicers of the example's contract, of both kinds; what is generated of it lies in a test's folder."""

import importlib
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hauberk


class Contract:
    """The generated modules, and what tests make of them."""

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(folder))
        try:
            self.messages: Any = importlib.import_module("tickets_pb2")
            self.generated: Any = importlib.import_module("tickets_pb2_grpc")
        finally:
            sys.path.remove(str(folder))

    def stub(self, channel: Any) -> Any:
        return self.generated.TicketsStub(channel)

    def seat(self, name: str = "A1") -> Any:
        return self.messages.BuyRequest(seat=name)

    def coroutines(self) -> Any:
        """A servicer whose methods are coroutines; `ran` has who asked."""
        messages = self.messages

        class Tickets(self.generated.TicketsServicer):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                self.ran: list[str] = []

            async def Buy(self, request: Any, context: Any) -> Any:  # noqa: N802
                self.ran.append(holder())
                return messages.Ticket(seat=request.seat, holder=holder())

            async def WatchSales(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
                yield messages.Ticket(seat="A1")

        return Tickets()

    def plain(self) -> Any:
        """The same with plain functions; `ran` has the threads."""
        messages = self.messages

        class Tickets(self.generated.TicketsServicer):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                self.ran: list[str] = []

            def Buy(self, request: Any, context: Any) -> Any:  # noqa: N802
                self.ran.append(threading.current_thread().name)
                return messages.Ticket(seat=request.seat, holder=holder())

            def WatchSales(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
                yield messages.Ticket(seat="A1")

        return Tickets()


def holder() -> str:
    served = hauberk.current_call()
    assert served is not None
    assert served.token is not None
    return served.token.subject
