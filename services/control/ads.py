"""The aggregated discovery service: tells each connected process where it may call, and keeps telling it.

State of the world, for gRPC clients. Who asks is the certificate of the call, never what the request says. A
change wakes only the streams it can concern, and those a few at a time, so that registrations and health
checks that share this event loop are answered in between.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

import grpc

from hauberk.certs.clock import utc_now
from hauberk.certs.identity import LeafIdentity, SpiffeId
from hauberk.certs.watch import Watch
from hauberk.interceptors.errors import TooManyInFlight
from hauberk.interceptors.policy import BUILT_IN, Policy, callers
from hauberk.interceptors.servant import RpcMethod
from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.protos.third_party.envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from hauberk.services.control.caller import caller
from hauberk.services.control.clients import Client
from hauberk.services.control.snapshot import Snapshot
from hauberk.services.control.xds.resource import ResourceType
from hauberk.services.control.xds.view import Resources

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHOD = "StreamAggregatedResources"
POLICIES: Mapping[str, Policy] = {
    METHOD: Policy(
        method=f"/{SERVICE}/{METHOD}",
        request_streaming=True,
        response_streaming=True,
        callers=callers("*"),
        origin=BUILT_IN,
    )
}
"""Any workload of the mesh may ask; what it is told depends on who it is."""

STREAMS_PER_IDENTITY = 500
"""Replicas of one workload share an identity; each has one stream, and for a moment two."""
AT_ONCE = 50
"""Streams woken before the event loop serves others: some 10 ms of writes."""

Context = grpc.aio.ServicerContext[DiscoveryRequest, bytes]


class Ads:
    """Serves the latest of `snapshots` to every stream. `control_id` is what it calls itself.

    Add it to a server with `SERVICE`, `handlers()` and `POLICIES`. All of it runs in one event loop.
    """

    def __init__(
        self,
        snapshots: Watch[Snapshot],
        control_id: SpiffeId,
        *,
        streams_per_identity: int = STREAMS_PER_IDENTITY,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._snapshots = snapshots
        self._control_id = control_id
        self._streams_per_identity = streams_per_identity
        self._now = now
        self._resources = Resources(snapshots.value, control_id)
        self._streams: dict[SpiffeId, list[_Stream]] = {}
        self._by_endpoints: dict[str, set[_Stream]] = {}
        self._unsubscribe: Callable[[], None] | None = None

    def handlers(self) -> Mapping[str, RpcMethod]:
        """By method name. Responses leave as the bytes they were kept as."""
        return {
            METHOD: grpc.stream_stream_rpc_method_handler(
                self._serve, request_deserializer=DiscoveryRequest.FromString
            )
        }

    def clients(self) -> list[admin_pb2.XdsClient]:
        """Every connected client, by identity and then by the time it came."""
        names = sorted(self._streams, key=str)
        return [stream.client.describe() for name in names for stream in self._streams[name]]

    async def _serve(self, requests: AsyncIterator[DiscoveryRequest], context: Context) -> None:
        with self._admitted(caller()) as stream:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(stream, requests))
                group.create_task(self._write(stream, context))

    async def _read(self, stream: "_Stream", requests: AsyncIterator[DiscoveryRequest]) -> None:
        async for request in requests:
            before = stream.client.names(ResourceType.ENDPOINTS)
            stream.client.receive(request, self._now())
            self._index(stream, before, stream.client.names(ResourceType.ENDPOINTS))
            stream.woken.set()
        stream.ended = True
        stream.woken.set()

    async def _write(self, stream: "_Stream", context: Context) -> None:
        """Send what is due; a client that has sent its last request still gets its answers."""
        while True:
            body = stream.client.next_response(self._resources, str(self._control_id))
            if body is not None:
                try:
                    await context.write(body)
                except grpc.aio.InternalError:
                    return  # the client is gone: core cancels the call, but not always before we write
            elif stream.ended:
                return
            else:
                await stream.woken.wait()
                stream.woken.clear()

    @contextmanager
    def _admitted(self, peer: LeafIdentity) -> Iterator["_Stream"]:
        """A stream of this peer, until the block is left."""
        name, now = peer.spiffe_id, self._now()
        mine = self._streams.setdefault(name, [])
        if len(mine) >= self._streams_per_identity:
            raise TooManyInFlight(f"{len(mine)} xds streams of {name}, at most {self._streams_per_identity}")
        stream = _Stream(Client(name, now))
        mine.append(stream)
        self._follow()
        try:
            yield stream
        finally:
            mine.remove(stream)
            self._index(stream, stream.client.names(ResourceType.ENDPOINTS), frozenset())
            if not mine:
                del self._streams[name]
            if not self._streams:
                self._rest()

    def _index(self, stream: "_Stream", before: frozenset[str], after: frozenset[str]) -> None:
        for name in before - after:
            self._by_endpoints[name].discard(stream)
            if not self._by_endpoints[name]:
                del self._by_endpoints[name]
        for name in after - before:
            self._by_endpoints.setdefault(name, set()).add(stream)

    def _follow(self) -> None:
        """Watch the snapshots while anybody listens."""
        if self._unsubscribe is None:
            loop = asyncio.get_running_loop()
            self._unsubscribe = self._snapshots.subscribe(lambda _: _soon(loop, self._refresh))
            self._refresh()

    def _rest(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def _refresh(self) -> None:
        """Take over the latest snapshot, and wake the streams it can concern."""
        before, snapshot = self._resources, self._snapshots.value
        if snapshot is before.snapshot:
            return
        self._resources = Resources(snapshot, self._control_id, before)
        if snapshot.contracts_version != before.snapshot.contracts_version:
            concerned = [stream for streams in self._streams.values() for stream in streams]
        else:
            moved = self._resources.moved_since(before)
            concerned = list(set().union(*(self._by_endpoints.get(name, ()) for name in moved)))
        self._wake(concerned)

    def _wake(self, streams: list["_Stream"]) -> None:
        for stream in streams[:AT_ONCE]:
            stream.woken.set()
        if len(streams) > AT_ONCE:
            asyncio.get_running_loop().call_soon(self._wake, streams[AT_ONCE:])


class _Stream:
    """One connected client, and what its two tasks tell each other."""

    __slots__ = ("client", "ended", "woken")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.woken = asyncio.Event()
        self.ended = False


def _soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Snapshots may be set in any thread, and after this loop has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
