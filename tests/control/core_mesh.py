"""A control plane on free ports, an operator, and workloads that join, announce and leave as real ones do."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2

from hauberk.certs.authority import Authority
from hauberk.certs.credentials import Credentials, pinned_channel_credentials
from hauberk.certs.identity import SpiffeId
from hauberk.certs.join import mint
from hauberk.enrolment import Admission, enrol
from hauberk.interceptors.errors import DETAILS_KEY
from hauberk.protos.hauberk.control.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    enrolment_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from hauberk.protos.shop.catalog.v1 import catalog_pb2
from hauberk.protos.shop.payments.v1 import payments_pb2
from hauberk.services.control.plane import ControlPlane, control_plane
from hauberk.services.control.settings import ControlSettings
from hauberk.services.control.snapshot import Replica, Status

TRUST_DOMAIN = "shop.test"
CATALOG, PAYMENTS = "shop.catalog.v1.Catalog", "shop.payments.v1.Payments"
SERVING = registry_pb2.SERVING_STATUS_SERVING
NOT_SERVING = registry_pb2.SERVING_STATUS_NOT_SERVING
DRAINING = registry_pb2.SERVING_STATUS_DRAINING
CONTROL_NAME = (("grpc.ssl_target_name_override", f"control.{TRUST_DOMAIN}"),)
CALL_S = 10.0


def spiffe(name: str) -> SpiffeId:
    return SpiffeId.of(TRUST_DOMAIN, name)


class MovedClock:
    """Now, moved on by what a test says."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def settings(state: Path, **control: str) -> ControlSettings:
    """What a mesh.toml beside `state` says, with the given keys in [control]."""
    state.mkdir(mode=0o700, exist_ok=True)
    lines = "".join(f'{key} = "{value}"\n' for key, value in control.items())
    config = state.parent / f"{state.name}.toml"
    config.write_text(f'trust_domain = "{TRUST_DOMAIN}"\n[control]\n{lines}')
    return ControlSettings.load({"HAUBERK_CONTROL_CONFIG": str(config), "HAUBERK_CONTROL_STATE": str(state)})


def make_ca(state: Path) -> None:
    state.mkdir(mode=0o700, exist_ok=True)
    Authority.create(state / "ca", TRUST_DOMAIN, now=datetime.now(UTC))


@asynccontextmanager
async def core_mesh(state: Path, **control: str) -> AsyncIterator["CoreMesh"]:
    """A mesh whose control plane keeps its state in `state`, where a CA is made if there is none."""
    if not (state / "ca").exists():
        make_ca(state)
    clock = MovedClock()
    async with control_plane(settings(state, **control), clock=clock) as plane, AsyncExitStack() as stack:
        keeping = asyncio.create_task(plane.keep())
        try:
            yield CoreMesh(plane, clock, stack)
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])


class CoreMesh:
    """One control plane that serves, and those who talk to it."""

    def __init__(self, plane: ControlPlane, clock: MovedClock, stack: AsyncExitStack) -> None:
        self.plane = plane
        self.clock = clock
        self._stack = stack

    async def token(self, name: str, serves: Iterable[str] = (), **keep: bool) -> str:
        """A join token, as if an operator had invited `name`."""
        now = self.clock()
        token, record = mint(spiffe(name), serves=serves, ttl=timedelta(minutes=10), now=now)
        await asyncio.to_thread(
            self.plane.store.invite, record, keep_bindings=keep.get("keep_bindings", False), now=now
        )
        self.plane.roster.rebind(await asyncio.to_thread(self.plane.store.bindings))
        return token

    async def enrol(self, token: str) -> Admission:
        bundle = self.plane.source.trust.value.bundle
        return await enrol(self.plane.enrolment.address, token, roots=bundle, now=self.clock)

    async def join(self, name: str, serves: Iterable[str] = ()) -> "Workload":
        """`name`, invited and enrolled."""
        admission = await self.enrol(await self.token(name, serves))
        return self.as_(admission.credentials)

    async def operator(self) -> "Workload":
        return await self.join("operators/local")

    def as_(self, credentials: Credentials) -> "Workload":
        """Whoever holds these credentials, on a connection of its own."""
        channel = grpc.aio.secure_channel(
            self.plane.mesh.address, credentials.channel_credentials(), options=CONTROL_NAME
        )
        self._stack.push_async_callback(channel.close)
        return Workload(credentials, channel)

    def stranger(self) -> Any:
        """A stub for enrolment, of somebody who has nothing but the root."""
        credentials = pinned_channel_credentials(self.plane.source.trust.value.bundle)
        channel = grpc.aio.secure_channel(self.plane.enrolment.address, credentials, options=CONTROL_NAME)
        self._stack.push_async_callback(channel.close)
        return enrolment_pb2_grpc.EnrolmentStub(channel)

    def listed(self) -> dict[str, Replica]:
        """What callers are told of now: replicas by "name#replica"."""
        workloads = self.plane.publisher.snapshots.value.workloads
        return {
            f"{name}#{replica.replica}": replica
            for name, workload in workloads.items()
            for replica in workload.replicas
        }

    async def until_listed(self, *names: str) -> None:
        """Waits until exactly these serving replicas are told to callers."""
        async with asyncio.timeout(CALL_S):
            async for _ in self.plane.publisher.snapshots.changes():
                serving = {name for name, each in self.listed().items() if each.status is Status.SERVING}
                if serving == set(names):
                    return


class Workload:
    """One process that has an SVID."""

    def __init__(self, credentials: Credentials, channel: grpc.aio.Channel) -> None:
        self.credentials = credentials
        self.channel = channel
        self.admin: Any = admin_pb2_grpc.AdminStub(channel)
        self.identity: Any = enrolment_pb2_grpc.IdentityStub(channel)
        self.registry: Any = registry_pb2_grpc.RegistryStub(channel)

    async def announce(self, **changed: Any) -> "Announced":
        """Open a stream and wait for its first answer."""
        announced = Announced(self.registry.Announce())
        await announced.say(offer=offer(**changed))
        await announced.heard()
        return announced


class Announced:
    """One announcement stream, from the replica's side."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def say(self, **message: Any) -> None:
        await self.call.write(registry_pb2.AnnounceRequest(**message))

    async def heard(self) -> int:
        """The next status the control plane confirms."""
        async with asyncio.timeout(CALL_S):
            response = await self.call.read()
        if response is grpc.aio.EOF:
            raise AssertionError(f"stream ended: {await self.call.code()} {await self.call.details()}")
        return int(response.status)

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """How the control plane ended the stream."""
        async with asyncio.timeout(CALL_S):
            return await self.call.code(), await self.call.details()


def offer(
    *contracts: str,
    address: str = "127.0.0.1:4001",
    replica: str = "1",
    agent: str = "test",
    descriptors: bytes | None = None,
    serves: Iterable[str] = (CATALOG,),
) -> registry_pb2.Offer:
    return registry_pb2.Offer(
        replica=replica,
        address=address,
        contracts=contracts or tuple(serves),
        descriptors=shop_descriptors() if descriptors is None else descriptors,
        agent=agent,
    )


def shop_descriptors() -> bytes:
    files = FileDescriptorSet()
    for module in (catalog_pb2, payments_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    return files.SerializeToString()


def invitation(name: str, *serves: str) -> admin_pb2.InviteRequest:
    return admin_pb2.InviteRequest(name=name, serves=serves)


def reason_of(error: grpc.RpcError) -> str:
    """The machine-readable reason of a refusal of ours; empty if it is none."""
    assert isinstance(error, grpc.aio.AioRpcError)
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                told = error_details_pb2.ErrorInfo()
                if detail.Unpack(told):
                    return told.reason
    return ""
