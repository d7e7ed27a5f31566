"""The shop with two of each service, and a load that remembers when each call began and how it ended."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import MethodOptions

from hauberk.mesh import Mesh
from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.protos.shop.catalog.v1 import catalog_pb2
from hauberk.protos.shop.orders.v1 import orders_pb2, orders_pb2_grpc
from hauberk.protos.shop.payments.v1 import payments_pb2
from hauberk.services.shopper.load import STOCK, Load
from hauberk.services.shopper.purchase import ORDER_S
from tests.mesh.books import Books
from tests.mesh.fleet import Fleet
from tests.mesh.running import shop

SERVICES = ("catalog", "payments", "orders")
SETTLED_S = 40.0
"""How long an order may take to be settled after a fault: its claim lasts 15 s, and is then taken over."""
LONGEST_S = 300.0
"""A load ends by itself after that."""
SLOW_S = 0.5
"""A call that took longer has met the fault: others take some ten milliseconds."""


def twins(
    *, svid_lifetime: str = "1h", host: str = "127.0.0.1", urls: Mapping[str, str] = MappingProxyType({})
) -> str:
    """mesh.toml of the shop with two replicas of each service, everything listening on `host`.

    `urls` are the databases of those services that do not use SQLite.
    """
    text = re.sub(
        r"(?m)^(serves = .*)$", rf'\1\nreplicas = 2\nlisten = "{host}:0"', shop(svid_lifetime=svid_lifetime)
    )
    for service, url in urls.items():
        head = f"[workloads.{service}]\n"
        assert head in text
        text = text.replace(head, f'{head}env = {{ DATABASE_URL = "{url}" }}\n')
    return text.replace('listen = "127.0.0.1:0"', f'listen = "{host}:0"').replace(
        'names = ["127.0.0.1"]', f'names = ["{host}"]'
    )


def _reads() -> frozenset[str]:
    """The methods that are declared to change nothing."""
    services = [
        service
        for file in (catalog_pb2, orders_pb2, payments_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
    ]
    harmless = MethodOptions.NO_SIDE_EFFECTS
    return frozenset(
        method.name
        for service in services
        for method in service.methods
        if method.GetOptions().idempotency_level == harmless
    )


READS = _reads()


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """One call of the load; monotonic seconds. `failure` is empty for one that succeeded."""

    method: str
    began: float
    ended: float
    failure: str

    def __str__(self) -> str:
        return f"{self.method} after {self.ended - self.began:.2f} s: {self.failure}"


class WatchedLoad(Load):
    """A load that keeps every call, and every order it was told is placed."""

    def __init__(self, channel: grpc.aio.Channel, *, rate: float) -> None:
        super().__init__(channel, asyncio.Event(), rate=rate)
        self.called: list[Called] = []
        self.acknowledged: set[str] = set()
        self._failures: dict[object, str] = {}

    def end(self) -> None:
        """No further call; `run` returns when those in flight have ended."""
        self._stopping.set()

    def met(self, since: float, until: float) -> list[Called]:
        """The calls of that time which failed or were held up."""
        return [
            call
            for call in self.called
            if since <= call.ended and call.began <= until
            if call.failure or call.ended - call.began > SLOW_S
        ]

    async def _counted(self, method: str, call: Callable[[], Awaitable[object]]) -> None:
        began = time.monotonic()
        await super()._counted(method, call)
        failure = self._failures.pop(asyncio.current_task(), "")
        self.called.append(Called(method=method, began=began, ended=time.monotonic(), failure=failure))

    def _note(self, method: str, code: str, text: str) -> None:
        super()._note(method, code, text)
        self._failures[asyncio.current_task()] = f"{code}: {text}"

    async def _place(self) -> orders_pb2.Order:
        order = await super()._place()
        self.acknowledged.add(order.order_id)
        return order


@asynccontextmanager
async def trading(
    caller: Mesh, read: Callable[[], Books], *, rate: float = 40.0
) -> AsyncIterator[WatchedLoad]:
    """A load on the shop while the block runs; then every order is settled, and the books are exact.

    `read` reads those books.
    """
    load = WatchedLoad(caller.channel, rate=rate)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(load.run(LONGEST_S))
        try:
            yield load
        finally:
            load.end()
    print(running.result())
    # Between the faults, too, no read failed; a watch that was cut was opened again.
    assert not failed(load.called, reads=True)
    assert running.result().failed["WatchProducts"] == 0
    assert running.result().skipped == 0
    await settle(read, caller.channel)
    books = await asyncio.to_thread(read)
    assert books.wrongs(stocked={load.own: STOCK}, acknowledged=load.acknowledged) == []
    assert load.acknowledged


def failed(calls: Iterable[Called], *, reads: bool) -> list[str]:
    """The failures among them, in words: of reads, or of writes."""
    return [str(call) for call in calls if call.failure and (call.method in READS) is reads]


async def settle(read: Callable[[], Books], channel: grpc.aio.Channel) -> None:
    """Ask again, with the same keys, for every order that is not settled, until all are."""
    orders = orders_pb2_grpc.OrdersStub(channel)
    async with asyncio.timeout(SETTLED_S):
        while unsettled := (books := await asyncio.to_thread(read)).unsettled:
            await asyncio.gather(*(_ask_again(orders, books, order_id) for order_id in unsettled))
            await asyncio.sleep(0.5)


async def _ask_again(orders: Any, books: Books, order_id: str) -> None:
    order, lines = books.orders[order_id], books.order_lines[order_id]
    request = orders_pb2.PlaceOrderRequest(
        idempotency_key=order.idempotency_key,
        customer=order.customer,
        lines=[orders_pb2.OrderLine(sku=sku, quantity=quantity) for sku, quantity in lines.items()],
    )
    try:
        await orders.PlaceOrder(request, timeout=ORDER_S)
    except grpc.aio.AioRpcError:
        return  # settled as failed, or not yet: the books will say


async def followers(mesh: Fleet) -> set[str]:
    """The processes that hear of changes over xDS."""
    clients = (await mesh.admin.ListClients(admin_pb2.ListClientsRequest())).clients
    return {client.node_id for client in clients if client.types}
