"""The one channel through which a process calls the whole mesh.

The contract is the address: the control plane routes by the service in the method's path. Core watches the
credential files itself, so this channel lives as long as the process, unless core was cut off from the
control plane: it looks after that connection only every five minutes.
"""

import asyncio
import logging
from collections.abc import Callable

import grpc

from hauberk.bootstrap import TARGET
from hauberk.certs.credentials import Credentials
from hauberk.certs.watch import Watch
from hauberk.direct import Connection, PickedChannel
from hauberk.interceptors.uninstrumented import aio_secure_channel
from hauberk.options import CHANNEL
from hauberk.racing import at_each

_log = logging.getLogger(__name__)

# Named for tests, but the only way to give a channel its own bootstrap: environment and file are one for a
# whole process, and a process may hold several identities.
BOOTSTRAP = "grpc.TEST_ONLY_DO_NOT_USE_IN_PROD.xds_bootstrap_config"


def xds_channel(bootstrap: str, credentials: Credentials) -> grpc.aio.Channel:
    """A channel to the mesh described by `bootstrap` (JSON).

    `credentials` are used where the control plane sends a cluster without TLS: such a call then fails on the
    server's name, where it would otherwise go out in the clear.
    """
    secure = grpc.xds_channel_credentials(credentials.channel_credentials())
    return aio_secure_channel(TARGET, secure, options=[*CHANNEL, (BOOTSTRAP, bootstrap)])


class MeshChannel(PickedChannel):
    """Core's channel, made by `dial` at the first call: a process that calls nobody asks for no routes."""

    def __init__(
        self,
        dial: Callable[[], grpc.aio.Channel],
        *,
        drain_s: float,
        check: Callable[[], None],
        streaming: Callable[[str, grpc.aio.Call], None] | None = None,
    ) -> None:
        """`drain_s` is how long calls may go on over a connection that was replaced.

        `check` is called before each call, and may raise; `streaming` is told of each call that streams.
        `end` when done; `close` is for users of a channel that is not theirs, and does nothing.
        """
        super().__init__(self._current, self._enter, streaming)
        self._dial = dial
        self._check = check
        self._drain_s = drain_s
        self._connection: Connection | None = None
        self._draining: set[asyncio.Task[None]] = set()

    async def keep(self, found_again: Watch[None]) -> None:
        """Dial anew whenever `found_again` is set, for ever; also where the last time leads nowhere yet."""
        await at_each(found_again, self.dial_anew)

    async def dial_anew(self) -> None:
        """Replace what is connected by a channel that has asked the control plane again.

        It takes over once it has found somebody to call; until then what was known goes on being used.
        """
        if self._connection is None:
            return
        fresh = Connection(self._dial())
        try:
            await fresh.channel.channel_ready()
        except BaseException:
            await fresh.channel.close()
            raise
        old, self._connection = self._connection, fresh
        _log.info("routes and endpoints were asked for anew")
        draining = asyncio.create_task(old.drain(self._drain_s))
        self._draining.add(draining)
        draining.add_done_callback(self._draining.discard)

    async def end(self) -> None:
        """End every call, and all connections."""
        for draining in tuple(self._draining):
            draining.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)
        if self._connection is not None:
            await self._connection.channel.close()

    def _current(self) -> grpc.aio.Channel:
        self._check()
        if self._connection is None:
            self._connection = Connection(self._dial())
        return self._connection.channel

    def _enter(self, call: grpc.aio.Call) -> None:
        assert self._connection is not None  # noqa: S101 - picked just before
        self._connection.enter(call)
