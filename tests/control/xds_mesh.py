"""A control plane that serves xDS, backends and clients, in one process, over real mutual TLS.

What a test changes is the list of workloads; everything below it is what runs in a mesh.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import grpc
from google.rpc.status_pb2 import Status as RpcStatus

from hauberk.bootstrap import TARGET, bootstrap
from hauberk.certs.authority import Authority
from hauberk.certs.credentials import Credentials, server_credentials
from hauberk.certs.identity import SpiffeId
from hauberk.certs.rotation import Schedule
from hauberk.certs.store import CredentialStore
from hauberk.certs.watch import Watch
from hauberk.interceptors.inbound import Guard
from hauberk.interceptors.peer import Trust
from hauberk.interceptors.policy import Idempotency, Policy, callers
from hauberk.interceptors.serving import guarded_server
from hauberk.protos.third_party.envoy.config.core.v3.base_pb2 import Node
from hauberk.protos.third_party.envoy.service.discovery.v3.discovery_pb2 import (
    DiscoveryRequest,
    DiscoveryResponse,
)
from hauberk.services.control import ads as ads_module
from hauberk.services.control.ads import Ads
from hauberk.services.control.snapshot import Contract, Replica, Snapshot, Status, Workload
from hauberk.services.control.xds.resource import ResourceType

TRUST_DOMAIN = "shop.test"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIFETIME = timedelta(hours=1)


def spiffe(name: str) -> SpiffeId:
    return SpiffeId.of(TRUST_DOMAIN, name)


def contract(service: str, *, again: Iterable[str] = (), **methods: Iterable[str]) -> Contract:
    """`contract("pkg.Svc", Get=["gateway"])`: who may call what; `again` are the methods safe to repeat."""
    repeatable = frozenset(again)
    policies = {
        name: Policy(
            method=f"/{service}/{name}",
            callers=callers(*patterns),
            idempotency=Idempotency.IDEMPOTENT if name in repeatable else Idempotency.UNKNOWN,
        )
        for name, patterns in methods.items()
    }
    return Contract(service=service, methods=policies, version="1")


def replica(name: str, address: str, *, status: Status = Status.SERVING, number: str = "1") -> Replica:
    return Replica(
        spiffe_id=spiffe(name),
        replica=number,
        address=address,
        status=status,
        agent="test",
        svid_expires_at=NOW,
        contracts=(),
        policy_versions={},
    )


def workload(
    name: str, *contracts: Contract, at: Sequence[str] = (), status: Status = Status.SERVING
) -> Workload:
    """`name` with a replica at each address of `at`."""
    replicas = (replica(name, address, status=status, number=str(n)) for n, address in enumerate(at))
    return Workload(spiffe_id=spiffe(name), contracts=contracts, replicas=tuple(replicas))


def snapshot(*workloads: Workload, revoked: Iterable[str] = ()) -> Snapshot:
    return Snapshot.of(TRUST_DOMAIN, workloads, revoked)


class Backend:
    """A server that answers every unary method with its own name and remembers what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []
        self.peers: list[str] = []
        """host:port of the connection each call came by."""
        self.failing = 0
        """So many of the next calls are answered UNAVAILABLE."""
        self.address = ""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            self.asked.append(details.method)
            self.peers.append(context.peer())
            if self.failing > 0:
                self.failing -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            return self.name.encode()

        return grpc.unary_unary_rpc_method_handler(answer)


class _Backends(grpc.GenericRpcHandler):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._backend.service(details)


class Mesh:
    """Enter it, then `show` workloads, start `backend`s, open `channel`s and raw `ads` streams."""

    def __init__(self, folder: Path, *, ads: Callable[[Watch[Snapshot], SpiffeId], Ads] = Ads) -> None:
        self._folder = folder
        self._authority = Authority.create(folder / "ca", TRUST_DOMAIN, now=datetime.now(UTC))
        self._exit = AsyncExitStack()
        self.snapshots = Watch(snapshot())
        self.trust = Watch(Trust(self._authority.bundle))
        self.ads = ads(self.snapshots, self._authority.control_id)
        self.guard = Guard(self.trust, trust_domain=TRUST_DOMAIN, in_flight_per_peer=1000)
        self.guard.add(ads_module.SERVICE, self.ads.handlers(), ads_module.POLICIES)
        self.address = ""

    async def __aenter__(self) -> Self:
        self.address = await self._serve(self.guard, self.credentials("control", ip_addresses=["127.0.0.1"]))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    def revoke(self, name: str) -> None:
        """Refuse this name from now on."""
        self.trust.set(Trust(self.trust.value.bundle, frozenset({str(spiffe(name))})))

    def show(self, *workloads: Workload, revoked: Iterable[str] = ()) -> None:
        """Publish these workloads now."""
        self.snapshots.set(snapshot(*workloads, revoked=revoked))

    def credentials(self, name: str, *, ip_addresses: Iterable[str] = ()) -> Credentials:
        svid = self._authority.issue(
            spiffe(name), lifetime=LIFETIME, now=datetime.now(UTC), ip_addresses=ip_addresses
        )
        return Credentials(svid, self._authority.bundle)

    async def backend(self, name: str, *, shows: str | None = None) -> Backend:
        """A backend named `name`, whose certificate is that of `shows` if given."""
        backend = Backend(name)
        backend.address = await self._serve(_Backends(backend), self.credentials(shows or name))
        return backend

    @asynccontextmanager
    async def channel(self, name: str) -> AsyncIterator[grpc.aio.Channel]:
        """The one channel of the process `name`, with an xDS client of its own."""
        credentials, store = self.credentials(name), CredentialStore(self._folder / name)
        store.write(credentials)
        config = bootstrap(
            control_targets=[self.address],
            node_id=f"{name}#1",
            spiffe_id=spiffe(name),
            store=store,
            schedule=Schedule.of(LIFETIME.total_seconds()),
        )
        async with grpc.aio.secure_channel(
            TARGET,
            grpc.xds_channel_credentials(credentials.channel_credentials()),
            options=[("grpc.TEST_ONLY_DO_NOT_USE_IN_PROD.xds_bootstrap_config", config)],
        ) as channel:
            yield channel

    def control(self, name: str, options: Sequence[tuple[str, int]] = ()) -> grpc.aio.Channel:
        """A channel of the process `name` to the control plane itself."""
        credentials = self.credentials(name).channel_credentials()
        return grpc.aio.secure_channel(self.address, credentials, options)

    @asynccontextmanager
    async def stream(self, name: str, *, node: str = "raw") -> AsyncIterator["AdsStream"]:
        """An ADS stream of the process `name`, spoken by hand."""
        async with self.control(name) as channel:
            stream = AdsStream(channel, node)
            yield stream
            stream.call.cancel()

    async def _serve(self, handler: grpc.GenericRpcHandler | Guard, credentials: Credentials) -> str:
        options = [("grpc.so_reuseport", 0)]
        if isinstance(handler, Guard):
            server = guarded_server(handler, options)
        else:
            server = grpc.aio.server(handlers=[handler], options=options)
        port = server.add_secure_port("127.0.0.1:0", server_credentials(Watch(credentials)))
        await server.start()
        self._exit.push_async_callback(server.stop, 0)
        return f"127.0.0.1:{port}"


class AdsStream:
    """One stream of requests and responses, each exactly as on the wire."""

    def __init__(self, channel: grpc.aio.Channel, node: str = "raw") -> None:
        method = channel.stream_stream(
            f"/{ads_module.SERVICE}/{ads_module.METHOD}",
            request_serializer=DiscoveryRequest.SerializeToString,
            response_deserializer=DiscoveryResponse.FromString,
        )
        self.call: Any = method()
        self._node: Node | None = Node(id=node, user_agent_name="test", user_agent_version="1")
        self._names: dict[ResourceType, tuple[str, ...]] = {}

    async def ask(self, kind: ResourceType, *names: str, nonce: str = "", version: str = "") -> None:
        """Subscribe to `names` of one type."""
        self._names[kind] = names
        await self.send(
            DiscoveryRequest(
                type_url=kind.value,
                resource_names=names,
                response_nonce=nonce,
                version_info=version,
                node=self._node,
            )
        )
        self._node = None

    async def ack(self, response: DiscoveryResponse) -> None:
        kind = ResourceType(response.type_url)
        await self.ask(kind, *self._names[kind], nonce=response.nonce, version=response.version_info)

    async def nack(self, response: DiscoveryResponse, why: str) -> None:
        await self.send(
            DiscoveryRequest(
                type_url=response.type_url,
                resource_names=self._names[ResourceType(response.type_url)],
                response_nonce=response.nonce,
                error_detail=RpcStatus(code=3, message=why),
            )
        )

    async def send(self, request: DiscoveryRequest) -> None:
        await self.call.write(request)

    async def next(self) -> DiscoveryResponse:
        """The next response; an RpcError if the stream has ended."""
        async with asyncio.timeout(5):
            response = await self.call.read()
        if response is grpc.aio.EOF:
            await self.call
            raise AssertionError("the stream ended")
        assert isinstance(response, DiscoveryResponse)
        return response

    async def fetch(self, kind: ResourceType, *names: str) -> DiscoveryResponse:
        """Ask, take the answer, accept it."""
        await self.ask(kind, *names)
        response = await self.next()
        await self.ack(response)
        return response


async def call(channel: grpc.aio.Channel, path: str, *, to: str | None = None, timeout: float = 10) -> str:  # noqa: ASYNC109
    """The name of the backend that answered."""
    method: Any = channel.unary_unary(path)
    metadata = (("hauberk-to", to),) if to else ()
    reply: bytes = await method(b"", timeout=timeout, metadata=metadata)
    return reply.decode()


async def becomes(read: Callable[[], object], wanted: object, *, within_s: float = 10) -> None:
    """Until `read()` is `wanted`: for what happens on its own, soon."""
    async with asyncio.timeout(within_s):
        while read() != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def refusal(channel: grpc.aio.Channel, path: str, *, to: str | None = None) -> grpc.aio.AioRpcError:
    """The error that the call ended with."""
    try:
        answer = await call(channel, path, to=to)
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"{path} was answered by {answer}")
