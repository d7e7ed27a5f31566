"""A control plane in this process, and members that join it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import hauberk
from hauberk.certs import join
from hauberk.certs.authority import Authority
from hauberk.certs.identity import SpiffeId
from hauberk.entry import join as join_mesh
from hauberk.errors import MembershipEnded
from hauberk.mesh import Mesh
from hauberk.protos.hauberk.control.v1 import admin_pb2_grpc
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.services.control.plane import ControlPlane, control_plane
from hauberk.services.control.settings import ControlSettings, Listen
from hauberk.settings import Settings

TRUST_DOMAIN = "shop.test"
HOUR = timedelta(hours=1)
CATALOG = "shop.catalog.v1.Catalog"
BOUND = {CATALOG: "catalog"}


class Catalog(catalog_pb2_grpc.CatalogServicer):
    """Knows one product under any SKU. `hold` makes GetProduct wait until it is set."""

    def __init__(self, name: str = "catalog") -> None:
        self.name = name
        self.ran = 0
        self.entered = asyncio.Event()
        self.hold: asyncio.Event | None = None

    async def GetProduct(  # noqa: N802 - the contract's name
        self, request: catalog_pb2.GetProductRequest, context: Any
    ) -> catalog_pb2.Product:
        self.ran += 1
        self.entered.set()
        if self.hold is not None:
            await self.hold.wait()
        return catalog_pb2.Product(sku=request.sku, name=self.name)

    async def WatchProducts(  # noqa: N802 - the contract's name
        self, request: catalog_pb2.WatchProductsRequest, context: Any
    ) -> AsyncIterator[catalog_pb2.Product]:
        """Counts up from the number asked for."""
        number = int(request.skus[0]) if request.skus else 0
        while True:
            number += 1
            yield catalog_pb2.Product(sku=str(number))
            await asyncio.sleep(0.05)


class Control:
    """One mesh. Enter it, then `join` members; leaving ends those still in it, then the control plane."""

    def __init__(self, folder: Path, *, lifetime: timedelta = timedelta(hours=1)) -> None:
        self.folder = folder
        self.authority = Authority.create(folder / "state" / "ca", TRUST_DOMAIN, now=datetime.now(UTC) - HOUR)
        self._settings = ControlSettings(
            trust_domain=TRUST_DOMAIN,
            state=folder / "state",
            listen=Listen(host="127.0.0.1", port=0),
            enrolment_listen=Listen(host="127.0.0.1", port=0),
            dns_names=(),
            ip_addresses=("127.0.0.1",),
            svid_lifetime=lifetime,
            database=f"sqlite:///{folder}/control.db",
            ca_passphrase_file=None,
            operator_token_fd=None,
            access_log=False,
        )
        self.plane: ControlPlane
        self._members = AsyncExitStack()
        self._running = AsyncExitStack()

    async def start(self) -> None:
        tasks = await self._running.enter_async_context(asyncio.TaskGroup())
        self.plane = await self._running.enter_async_context(control_plane(self._settings))
        keeping = tasks.create_task(self.plane.keep())
        self._running.callback(keeping.cancel)

    async def stop(self) -> None:
        await self._running.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._members.aclose()
        await self.stop()

    @property
    def trust_domain(self) -> str:
        return TRUST_DOMAIN

    def invite(
        self, name: str, *, serves: Iterable[str] | None = None, ttl: timedelta = timedelta(hours=1)
    ) -> Path:
        """A file with a join token for `name`."""
        bound = [contract for contract, owner in BOUND.items() if owner == name] if serves is None else serves
        now = datetime.now(UTC)
        token, record = join.mint(SpiffeId.of(TRUST_DOMAIN, name), serves=bound, ttl=ttl, now=now)
        self.plane.store.invite(record, keep_bindings=False, now=now)
        self.plane.roster.rebind(self.plane.store.bindings())
        file = self.folder / f"{name.replace('/', '-')}.token"
        file.write_text(token + "\n")
        return file

    def settings(self, name: str, **more: Any) -> Settings:
        """Settings of a member; with no join token unless one is given."""
        return Settings(
            **{
                "name": name,
                "state_dir": self.folder / "members" / name.replace("/", "-"),
                "enrolment": self.plane.enrolment.address,
                "roots": self.folder / "state" / "ca" / "roots.pem",
                "drain_seconds": 2,
                **more,
            }
        )

    def join(self, name: str, **more: Any) -> join_mesh:
        """The join of an invited member, to be entered."""
        return join_mesh(self.settings(name, join_token_file=self.invite(name), **more))

    async def member(self, name: str, *, ends: bool = False, **more: Any) -> Mesh:
        """A member that stays until the mesh is left; if it `ends` before that, so be it."""
        if ends:
            self._members.enter_context(contextlib.suppress(MembershipEnded))
        return await self._members.enter_async_context(self.join(name, **more))

    async def follower(self, name: str) -> Mesh:
        """A second process of a member, which shares its state folder."""
        return await self._members.enter_async_context(join_mesh(self.settings(name, replica="2")))

    async def catalog(self, **more: Any) -> tuple[Mesh, Catalog]:
        """A catalog that serves until the mesh is left."""
        mesh = await self.member("catalog", **more)
        servicer = Catalog()  # type: ignore[abstract]  # the methods left out are refused
        server = mesh.server()
        catalog_pb2_grpc.add_CatalogServicer_to_server(servicer, server)
        await server.start()
        return mesh, servicer


async def get_product(mesh: Mesh, sku: str = "A-1", within: float = 5) -> catalog_pb2.Product:
    stub: Any = catalog_pb2_grpc.CatalogStub(mesh.channel)
    product: catalog_pb2.Product = await stub.GetProduct(
        catalog_pb2.GetProductRequest(sku=sku), timeout=within
    )
    return product


async def admin(control: Control) -> Any:
    """A stub of the Admin service, as an operator who stays until the mesh is left."""
    operator = await control.member("operators/local")
    return admin_pb2_grpc.AdminStub(operator.control)


async def eventually(condition: Callable[[], object], within: float = 10) -> None:
    """Wait until `condition` holds, for what happens in a background task."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - whoever is waited for tells nobody
            await asyncio.sleep(0.02)


def tasks_of_the_face() -> list[str]:
    """The tasks that run code of hauberk/ itself, not of the control plane in this process."""
    codes = [task.get_coro().cr_code for task in asyncio.all_tasks()]  # type: ignore[union-attr]
    face = Path(hauberk.__file__).parent
    return [code.co_qualname for code in codes if Path(code.co_filename).parent == face]
