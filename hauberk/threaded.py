"""A server of the mesh whose methods are plain functions and generators, in threads; server.py says the rest.

It lives in the event loop of the process that joined, as the other kind does: only the methods run elsewhere.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from hauberk import health, reflection
from hauberk.certs.watch import Watch
from hauberk.interceptors.inbound import Guard
from hauberk.interceptors.peer import Trust
from hauberk.interceptors.threaded_serving import BUILT_IN, ThreadedGuard, threaded_server
from hauberk.options import Option
from hauberk.server import Handlers, MeshServer

WORKERS = 32
WATCHERS = BUILT_IN // 2
"""Of health, at a time: each holds a thread."""


class ThreadedServer(MeshServer):
    """Serves plain methods to the mesh. Add servicers, then `serve`; or `start` and `stop`."""

    def __init__(self, *, workers: int = WORKERS, **more: Any) -> None:
        """`workers` is how many methods run at a time; a call that streams holds one for as long as it lasts.

        The rest is MeshServer's. A method that goes on after its call has ended takes no worker's place; as
        many of those may go on as there are workers.
        """
        self._workers = workers
        super().__init__(**more)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - core's name
        return self._server is not None and await asyncio.to_thread(
            self._server.wait_for_termination, timeout
        )

    def _new_health(self) -> health.Statuses:
        return health.PlainHealth(watchers=WATCHERS)

    def _new_guard(self, trust: Watch[Trust], **more: Any) -> Guard:
        return ThreadedGuard(trust, workers=self._workers, **more)

    def _new_core(self, options: Sequence[Option]) -> Any:
        assert isinstance(self._guard, ThreadedGuard)  # noqa: S101 - made above
        return threaded_server(self._guard, options)

    async def _start_core(self) -> None:
        self._server.start()

    async def _stop_core(self, grace: float) -> None:
        await asyncio.to_thread(self._server.stop(grace).wait)
        assert isinstance(self._guard, ThreadedGuard)  # noqa: S101 - made above
        self._guard.close()

    def _reflection(self, informs: reflection.Reflection) -> Handlers:
        return informs.handlers(plain=True)
