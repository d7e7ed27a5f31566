"""A channel to one address that is dialled anew whenever our credentials change.

A gRPC channel keeps the certificate it was made with. So a new channel is made, takes over once it is
connected, and the old one is closed when the last of its calls has ended. Stubs made of this channel stay
good: which connection a call goes over is decided at each call.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Self

import grpc

from hauberk.certs.credentials import Credentials
from hauberk.certs.identity import SpiffeId
from hauberk.certs.watch import Watch
from hauberk.interceptors.uninstrumented import aio_secure_channel
from hauberk.options import CHANNEL
from hauberk.racing import first_of

_log = logging.getLogger(__name__)

READY_S = 5.0
"""How long a new connection may take before it replaces the old one all the same: that one's time is over."""


class PickedChannel(grpc.aio.Channel):
    """A channel whose every call goes over the channel that `pick` returns at that moment.

    `made` is told of each call, `streaming` of each that streams and of its path. Closing is for
    whoever owns the channels picked.
    """

    def __init__(
        self,
        pick: Callable[[], grpc.aio.Channel],
        made: Callable[[grpc.aio.Call], None] | None = None,
        streaming: Callable[[str, grpc.aio.Call], None] | None = None,
    ) -> None:
        self._pick = pick
        self._made = made
        self._streaming = streaming

    def unary_unary(self, *method: Any, **options: Any) -> Any:
        return self._method("unary_unary", method, options)

    def unary_stream(self, *method: Any, **options: Any) -> Any:
        return self._method("unary_stream", method, options)

    def stream_unary(self, *method: Any, **options: Any) -> Any:
        return self._method("stream_unary", method, options)

    def stream_stream(self, *method: Any, **options: Any) -> Any:
        return self._method("stream_stream", method, options)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._pick().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._pick().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._pick().channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Nothing: see the class."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def _method(self, shape: str, method: tuple[Any, ...], options: dict[str, Any]) -> Any:
        made_by: grpc.aio.Channel | None = None
        callable_: Any = None

        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal made_by, callable_
            channel = self._pick()
            if channel is not made_by:
                made_by, callable_ = channel, getattr(channel, shape)(*method, **options)
            made = callable_(*arguments, **more)
            if self._made is not None:
                self._made(made)
            if self._streaming is not None and shape != "unary_unary":
                self._streaming(method[0], made)
            return made

        return call


class Connection:
    """One dialled channel, and its calls in flight."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._calls: set[grpc.aio.Call] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self, call: grpc.aio.Call) -> None:
        self._calls.add(call)
        self._idle.clear()
        call.add_done_callback(self._leave)

    def _leave(self, call: grpc.aio.Call) -> None:
        self._calls.discard(call)
        if not self._calls:
            self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Close when no call is left, at the latest in `seconds`; calls still running then are cancelled."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()
        finally:
            for call in tuple(self._calls):
                call.cancel()
            await self.channel.close()


class DirectChannel(PickedChannel):
    """A channel to `target` (a gRPC target) where `server` is expected, with our credentials of the moment.

    `keep` follows the credentials and must be running; `drain_s` is how long calls may outlive their
    connection's certificate. `check` is called before each call, and may raise. `close` when done.
    """

    def __init__(
        self,
        target: str,
        server: SpiffeId,
        credentials: Watch[Credentials],
        *,
        drain_s: float,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(self._current_channel, self._enter)
        self.target = target
        self.server = server
        self._credentials = credentials
        self._drain_s = drain_s
        self._check = check
        self._version, held = credentials.versioned
        self._connection = Watch(self._dial(held))

    async def keep(self) -> None:
        """Dial anew at each change of the credentials, for ever."""
        async with asyncio.TaskGroup() as draining:
            version = self._version
            while True:
                await self._credentials.next(version)
                version, held = self._credentials.versioned
                fresh = self._dial(held)
                try:
                    await self._connected(fresh)
                except BaseException:
                    await fresh.channel.close()
                    raise
                old = self._connection.value
                self._connection.set(fresh)
                draining.create_task(old.drain(self._drain_s))

    async def moved(self) -> None:
        """Return once a call made now would not go over the connection of those made before.

        That is so when the server has asked us to leave it (its age), when it was lost, or after a re-dial.
        """
        version, connection = self._connection.versioned
        ready = grpc.ChannelConnectivity.READY

        async def left() -> None:
            while connection.channel.get_state() is ready:
                await connection.channel.wait_for_state_change(ready)

        await first_of(left(), self._connection.next(version))

    async def cut(self) -> None:
        """End every call at once: whoever is there is no longer to be spoken with."""
        old = self._connection.value
        self._connection.set(self._dial(self._credentials.value))
        await old.drain(0.0)

    async def close(self, grace: float | None = None) -> None:
        """End every call after at most `grace` seconds, and the connection."""
        await self._connection.value.drain(grace or 0.0)

    def _current_channel(self) -> grpc.aio.Channel:
        self._check()
        return self._connection.value.channel

    def _enter(self, call: grpc.aio.Call) -> None:
        self._connection.value.enter(call)

    def _dial(self, held: Credentials) -> Connection:
        named = ("grpc.ssl_target_name_override", self.server.dns_name)
        secure = held.channel_credentials()
        return Connection(aio_secure_channel(self.target, secure, options=[*CHANNEL, named]))

    async def _connected(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(READY_S):
                await connection.channel.channel_ready()
        except TimeoutError:
            _log.warning("no connection to %s with our new certificate within %g s", self.target, READY_S)
