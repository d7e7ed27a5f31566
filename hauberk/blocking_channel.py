"""The one channel to the mesh for code in threads; channel.py has the one for asyncio, and says the rest."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

import grpc

from hauberk.bootstrap import TARGET
from hauberk.certs.credentials import Credentials
from hauberk.certs.watch import Watch
from hauberk.channel import BOOTSTRAP
from hauberk.interceptors.errors import ChannelClosed, rpc_error
from hauberk.interceptors.outgoing_blocking import RpcFailed
from hauberk.interceptors.uninstrumented import secure_channel
from hauberk.options import CHANNEL
from hauberk.racing import at_each

_log = logging.getLogger(__name__)


def blocking_xds_channel(bootstrap: str, credentials: Credentials) -> grpc.Channel:
    """As `channel.xds_channel`, of grpc's blocking API. It asks the control plane by itself."""
    secure = grpc.xds_channel_credentials(credentials.channel_credentials())
    return secure_channel(TARGET, secure, options=[*CHANNEL, (BOOTSTRAP, bootstrap)])


class BlockingConnection:
    """Core's channel, made by `dial` at the first call in whatever thread. `end` when done."""

    def __init__(
        self, dial: Callable[[], grpc.Channel], *, drain_s: float, check: Callable[[], None]
    ) -> None:
        """`drain_s` is how long calls may go on over a channel that was replaced. `check` may raise."""
        self._dial = dial
        self._drain_s = drain_s
        self._check = check
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._replaced: list[grpc.Channel] = []
        self._ended = False

    def current(self) -> grpc.Channel:
        """Raises what `check` does, and RpcFailed UNAVAILABLE after `end`."""
        self._check()
        if self._ended:
            raise RpcFailed(rpc_error(ChannelClosed("the mesh was left: nobody is called any more")))
        channel = self._channel
        if channel is None:
            with self._lock:
                if self._channel is None:
                    self._channel = self._dial()
                channel = self._channel
        return channel

    async def keep(self, found_again: Watch[None]) -> None:
        """Dial anew whenever `found_again` is set, for ever; also where the last time leads nowhere yet."""
        await at_each(found_again, self._dial_anew)

    async def end(self) -> None:
        """End every call, and all connections."""
        self._ended = True
        channels = [*self._replaced, *([self._channel] if self._channel is not None else [])]
        for channel in channels:
            await asyncio.to_thread(channel.close)

    async def _dial_anew(self) -> None:
        if self._channel is None:
            return
        fresh, loop, ready = self._dial(), asyncio.get_running_loop(), asyncio.Event()

        def connects(state: grpc.ChannelConnectivity) -> None:
            if state is grpc.ChannelConnectivity.READY:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(ready.set)

        fresh.subscribe(connects, try_to_connect=True)
        try:
            await ready.wait()
        except BaseException:
            await asyncio.to_thread(fresh.close)
            raise
        old, self._channel = self._channel, fresh
        assert old is not None  # noqa: S101 - looked at before
        self._replaced.append(old)
        _log.info("routes and endpoints were asked for anew, for calls that block")
        loop.call_later(self._drain_s, self._close, old)

    def _close(self, old: grpc.Channel) -> None:
        with contextlib.suppress(ValueError):  # ended meanwhile
            self._replaced.remove(old)
            old.close()
