"""Who serves which contract: what the control plane tells a process, looked up in a dictionary."""

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc

from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.errors import Refused, rpc_error
from hauberk.interceptors.metadata import AUTHORIZATION
from hauberk.interceptors.outgoing_blocking import RpcFailed
from hauberk.options import CHANNEL
from hauberk.server import MeshServer
from hauberk.testing.identities import Identities


class Served:
    """One server, and the channels that lead to it, by caller."""

    def __init__(self, name: str, server: MeshServer) -> None:
        self.name = name
        self.server = server
        self._channels: dict[tuple[str, bool], Any] = {}

    def channel(self, caller: str, identities: Identities, *, blocking: bool) -> Any:
        """Of core's blocking API or its asyncio one; dialled once."""
        key = (caller, blocking)
        if key not in self._channels:
            name = SpiffeId.of(identities.trust_domain, self.name).dns_name
            dial: Any = grpc.secure_channel if blocking else grpc.aio.secure_channel
            self._channels[key] = dial(
                self.server.address,
                identities.of(caller).channel_credentials(),
                options=[
                    *CHANNEL,
                    ("grpc.ssl_target_name_override", name),
                    ("grpc.use_local_subchannel_pool", 1),  # callers must not share a connection
                ],
            )
        return self._channels[key]

    async def close(self) -> None:
        """End every call, and all connections."""
        for (_, blocking), channel in self._channels.items():
            await (asyncio.to_thread(channel.close) if blocking else channel.close())
        self._channels.clear()


class Routes:
    """The servers of a mesh by contract; replaced whole, so that who has looked up anything looks again."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        self._served: Mapping[str, Served] = {}
        self._channels: dict[tuple[str, bool], Routed] = {}

    def add(self, served: Served) -> None:
        """Raises ValueError where another serves the same contract."""
        for contract in served.server.contracts:
            if contract in self._served:
                raise ValueError(f"{contract} is served by {self._served[contract].name} already")
        self._set({**self._served, **dict.fromkeys(served.server.contracts, served)})

    def remove(self, served: Served) -> None:
        self._set({contract: each for contract, each in self._served.items() if each is not served})

    def of(self, caller: str, *, blocking: bool) -> "Routed":
        """What leads that caller to each of them."""
        key = (caller, blocking)
        if key not in self._channels:
            self._channels[key] = Routed(self._served, caller, self._identities, blocking=blocking)
        return self._channels[key]

    def _set(self, served: Mapping[str, Served]) -> None:
        self._served, self._channels = served, {}


class Routed:
    """Stands where a channel makes its calls: each method is that of the server of its contract."""

    def __init__(
        self, served: Mapping[str, Served], caller: str, identities: Identities, *, blocking: bool
    ) -> None:
        self._served = served
        self._caller = caller
        self._identities = identities
        self._blocking = blocking

    def __getattr__(self, shape: str) -> Any:
        return lambda method, *rest, **named: getattr(self._channel(method), shape)(method, *rest, **named)

    def _channel(self, method: str) -> Any:
        contract = method[1:].rpartition("/")[0]
        served = self._served.get(contract)
        if served is None:
            nobody = Refused(
                f"nobody serves {contract} in this mesh: `async with mesh.serving(...)`",
                reason="NOBODY_SERVES",
                status=grpc.StatusCode.UNAVAILABLE,
            )
            raise RpcFailed(rpc_error(nobody)) if self._blocking else rpc_error(nobody)
        return served.channel(self._caller, self._identities, blocking=self._blocking)


class Bearing:
    """A channel whose calls bring a token."""

    def __init__(self, channel: Any, token: str) -> None:
        self._channel = channel
        self._header = (AUTHORIZATION, f"Bearer {token}")

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._channel, name)
        if name not in _SHAPES:
            return found
        return lambda *method, **how: _Bearing(found(*method, **how), self._header)


class _Bearing:
    """One method of such a channel."""

    def __init__(self, method: Any, header: tuple[str, str]) -> None:
        self._method = method
        self._header = header

    def __call__(self, *arguments: Any, metadata: Any = None, **how: Any) -> Any:
        return self._method(*arguments, metadata=(*(metadata or ()), self._header), **how)

    def with_call(self, *arguments: Any, metadata: Any = None, **how: Any) -> Any:
        return self._method.with_call(*arguments, metadata=(*(metadata or ()), self._header), **how)

    def future(self, *arguments: Any, metadata: Any = None, **how: Any) -> Any:
        return self._method.future(*arguments, metadata=(*(metadata or ()), self._header), **how)


_SHAPES = frozenset({"unary_unary", "unary_stream", "stream_unary", "stream_stream"})
