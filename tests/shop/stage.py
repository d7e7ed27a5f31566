"""The shop in one process: its services on real servers of the mesh, over mTLS, with the contracts' policies.

Only the control plane is left out: a channel picks its server by the contract, as the mesh's routes would.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc
from sqlalchemy import Engine, select, update

from hauberk.certs.authority import Authority
from hauberk.certs.credentials import Credentials
from hauberk.certs.identity import SpiffeId
from hauberk.certs.rotation import Schedule
from hauberk.certs.watch import Watch
from hauberk.interceptors.outbound import guarded
from hauberk.interceptors.peer import Trust
from hauberk.protos.shop.catalog.v1.catalog_pb2_grpc import (
    CatalogStub,
    add_CatalogServicer_to_server,
)
from hauberk.protos.shop.orders.v1.orders_pb2_grpc import (
    OrdersStub,
    add_OrdersServicer_to_server,
)
from hauberk.protos.shop.payments.v1.payments_pb2_grpc import (
    PaymentsStub,
    add_PaymentsServicer_to_server,
)
from hauberk.server import MeshServer
from hauberk.services.catalog.servicer import Catalog
from hauberk.services.catalog.store import CatalogStore, Product
from hauberk.services.money import Money
from hauberk.services.orders.callees import Callees
from hauberk.services.orders.errands import Errands
from hauberk.services.orders.servicer import Orders
from hauberk.services.orders.store import OrderStore, orders
from hauberk.services.payments.servicer import Payments
from hauberk.services.payments.store import PaymentStore
from tests.postgresql import allow_connections

if TYPE_CHECKING:  # the generated modules have these for type checkers only
    from hauberk.protos.shop.catalog.v1.catalog_pb2_grpc import CatalogAsyncStub
    from hauberk.protos.shop.orders.v1.orders_pb2_grpc import OrdersAsyncStub
    from hauberk.protos.shop.payments.v1.payments_pb2_grpc import PaymentsAsyncStub

OpenEngine = Callable[[str], Engine]
"""Opens the fresh database of a service, by its name, as its main does."""
NewShop = Callable[[], "Shop"]

TRUST_DOMAIN = "shop.test"
LIFETIME = timedelta(hours=1)
NOWHERE = "127.0.0.1:1"

ADD: dict[str, tuple[str, Callable[[Any, Any], None]]] = {
    "catalog": ("shop.catalog.v1.Catalog", add_CatalogServicer_to_server),
    "orders": ("shop.orders.v1.Orders", add_OrdersServicer_to_server),
    "payments": ("shop.payments.v1.Payments", add_PaymentsServicer_to_server),
}


class Street:
    """An authority, and the servers whose certificates it signs."""

    def __init__(self, folder: Path) -> None:
        self._authority = Authority.create(folder / "ca", TRUST_DOMAIN, now=datetime.now(UTC))
        self._trust = Watch(Trust(self._authority.bundle))
        self._servers: dict[tuple[str, int], MeshServer] = {}
        self.open = AsyncExitStack()

    def credentials(self, name: str) -> Credentials:
        spiffe_id = SpiffeId.of(TRUST_DOMAIN, name)
        svid = self._authority.issue(spiffe_id, lifetime=LIFETIME, now=datetime.now(UTC))
        return Credentials(svid, self._authority.bundle)

    async def serve(self, name: str, servicer: object, *, replica: int = 1) -> MeshServer:
        """Start a server of that workload; a replica that was closed comes back on its address."""
        before = self._servers.get((name, replica))
        server = MeshServer(
            credentials=Watch(self.credentials(name)),
            trust=self._trust,
            schedule=Schedule.of(LIFETIME.total_seconds()),
            listen="127.0.0.1:0" if before is None else before.address,
            service_name=name,
        )
        ADD[name][1](servicer, server)
        await server.start()
        self._servers[name, replica] = server
        self.open.push_async_callback(server.stop, 0)
        return server

    async def close(self, name: str) -> None:
        """Stop the workload's server at once; its address answers nobody then."""
        await self._servers[name, 1].stop(0)

    def channel(self, caller: str, *, replica: int = 1) -> grpc.aio.Channel:
        """To every server there is by now, as that workload."""
        servers = {name: server for (name, number), server in self._servers.items() if number == replica}
        routed = Routed({ADD[name][0]: self._dial(caller, name, servers[name]) for name in servers})
        return cast(grpc.aio.Channel, routed)

    def _dial(self, caller: str, name: str, server: MeshServer) -> grpc.aio.Channel:
        own = SpiffeId.of(TRUST_DOMAIN, name).dns_name
        options = [
            ("grpc.ssl_target_name_override", own),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 50),
        ]
        credentials = self.credentials(caller).channel_credentials()
        channel = grpc.aio.secure_channel(server.address, credentials, options)
        self.open.push_async_callback(channel.close)
        return guarded(channel)


class Routed:
    """Stands for a channel where stubs are made: each method goes to the server of its contract."""

    def __init__(self, channels: dict[str, grpc.aio.Channel]) -> None:
        self._channels = channels

    def _of(self, method: str) -> grpc.aio.Channel:
        return self._channels[method.split("/")[1]]

    def __getattr__(self, shape: str) -> Callable[..., Any]:
        return lambda method, *rest, **named: getattr(self._of(method), shape)(method, *rest, **named)


class Shop:
    """The three services, and what tests look at: their books, and stubs for the gateway."""

    def __init__(self, folder: Path, engine_of: OpenEngine) -> None:
        self.street = Street(folder)
        self._engines = {service: engine_of(service) for service in ADD}
        self.stock = CatalogStore(self._engines["catalog"])
        self.books = OrderStore(self._engines["orders"])
        self.books_engine = self._engines["orders"]
        self.till = PaymentStore(self._engines["payments"])
        self.leaving = asyncio.Event()
        self.errands = Errands()

    async def start(
        self,
        *,
        catalog: Catalog | None = None,
        payments: Payments | None = None,
        orders: type[Orders] = Orders,
    ) -> None:
        """Open the shop; what is given stands in for the usual servicer."""
        await self.street.serve("catalog", catalog or self.new_catalog())
        await self.street.serve("payments", payments or self.new_payments())
        await self.street.open.enter_async_context(self.errands)
        await self.street.serve("orders", self.new_orders(orders))

    @cached_property
    def gateway(self) -> grpc.aio.Channel:
        return self.street.channel("gateway")

    @cached_property
    def catalog(self) -> "CatalogAsyncStub":
        return CatalogStub(self.gateway)

    @cached_property
    def orders(self) -> "OrdersAsyncStub":
        return OrdersStub(self.gateway)

    @cached_property
    def payments(self) -> "PaymentsAsyncStub":
        return PaymentsStub(self.gateway)

    async def stop(self) -> None:
        await self.street.open.aclose()

    def new_catalog(self) -> Catalog:
        return Catalog(self.stock, self.leaving)

    def new_payments(self) -> Payments:
        return Payments(self.till)

    def new_orders(self, made_as: type[Orders] = Orders, *, books: OrderStore | None = None) -> Orders:
        callees = Callees(self.street.channel("orders"))
        return made_as(books or self.books, callees, self.errands, self.leaving)

    def as_replica(self, number: int) -> "OrdersAsyncStub":
        """The gateway's stub for one replica of the orders."""
        return OrdersStub(self.street.channel("gateway", replica=number))

    def lose_database(self, service: str) -> None:
        """Put something where the SQLite file was that cannot be opened as one; let PostgreSQL refuse us."""
        engine = self._engines[service]
        engine.dispose()
        if engine.dialect.name == "postgresql":
            allow_connections(engine.url, False)
            return
        file = Path(engine.url.database or "")
        file.rename(file.with_suffix(".lost"))
        file.mkdir()

    def find_database(self, service: str) -> None:
        """Have the lost one back."""
        url = self._engines[service].url
        if url.get_backend_name() == "postgresql":
            allow_connections(url, True)
            return
        file = Path(url.database or "")
        file.rmdir()
        file.with_suffix(".lost").rename(file)

    def claimed_by(self, key: str) -> str | None:
        """Who works on the order of that key, and is to be found in no answer."""
        owner: str | None = self._claim(key).claimed_by
        return owner

    def resting(self, key: str) -> bool:
        """Whether recovery has tried to settle that order and left it for later."""
        claim = self._claim(key)
        return claim.claimed_by is None and claim.claimed_until is not None

    def _claim(self, key: str) -> Any:
        with self.books_engine.connect() as connection:
            return connection.execute(select(orders).where(orders.c.idempotency_key == key)).one()

    def sell(self, sku: str, price: int, stock: int, currency: str = "EUR") -> None:
        self.stock.import_products(
            [
                Product(
                    sku=sku,
                    name=sku.title(),
                    price=Money(currency=currency, minor_units=price),
                    stock=stock,
                    updated_at=datetime.now(UTC),
                )
            ]
        )

    def left(self, sku: str) -> int:
        return self.stock.product(sku).stock


def pass_time(engine: Engine, passed: timedelta) -> None:
    """Let all claims on orders be nearer their end, or further past it, as if that time had passed.

    The clock they are held against is the database's on PostgreSQL, which no test can move.
    """
    with engine.begin() as connection:
        for row in connection.execute(select(orders).where(orders.c.claimed_until.is_not(None))).all():
            connection.execute(
                update(orders)
                .where(orders.c.order_id == row.order_id)
                .values(claimed_until=row.claimed_until - passed)
            )
