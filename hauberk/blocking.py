"""The mesh for programs that are not asyncio (Flask, Django, Celery): joined once, called from threads.

with hauberk.blocking.join() as mesh:
    product = CatalogStub(mesh.channel).GetProduct(request, timeout=2)

An event loop in a thread of its own keeps the identity fresh; calls go out from the thread that makes them.
A process that forks workers joins in each worker, after the fork: `start` there, `stop` when it leaves.
"""

import asyncio
import os
import threading
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any

import grpc

from hauberk.certs.identity import SpiffeId
from hauberk.entry import join as join_mesh
from hauberk.errors import JoinedBeforeFork
from hauberk.mesh import Mesh
from hauberk.running import loop_factory
from hauberk.settings import Settings


class BlockingMesh:
    """What a member of the mesh has, for threads. Good until it is stopped."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._channel = mesh.blocking_channel()

    @property
    def id(self) -> SpiffeId:
        """Our own SPIFFE ID."""
        return self._mesh.id

    @property
    def channel(self) -> grpc.Channel:
        """The channel to every contract of the mesh that we may call."""
        return self._channel

    def channel_to(self, name: str) -> grpc.Channel:
        """The same, for contracts that several workloads offer (health, reflection): calls go to `name`."""
        return self._mesh.blocking_channel(name)


class join:  # noqa: N801 - read as the verb it is: `with join() as mesh`
    """Joins the mesh for the length of a `with` block, or from `start` to `stop`.

    Settings and errors are those of `hauberk.join`. Where the membership ends early, calls fail, and `stop`
    raises MembershipEnded.
    """

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        self._join = partial(join_mesh, settings, **overrides)
        self._pid = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._mesh: Mesh | None = None
        self._member: BlockingMesh | None = None
        self._over: Future[None]

    @property
    def mesh(self) -> BlockingMesh:
        """What `start` returned. Raises RuntimeError before that."""
        if self._member is None:
            raise RuntimeError("nothing has joined yet: start it, after the fork where there is one")
        return self._member

    @property
    def ended(self) -> bool:
        """Whether our membership has ended: nothing but `stop`, and another process, helps then."""
        return self._mesh is not None and self._mesh.stopping.is_set()

    def start(self) -> BlockingMesh:
        """Join; returns once we are a member. Raises JoinFailed or SettingsError, and RuntimeError if it was
        called before.
        """
        if self._thread is not None:
            self._check_pid()
            raise RuntimeError("this has joined already: start once")
        joined: Future[BlockingMesh] = Future()
        self._pid, self._over = os.getpid(), Future()
        self._thread = threading.Thread(target=self._run, args=(joined,), name="hauberk-mesh", daemon=True)
        self._thread.start()
        return joined.result()

    def stop(self) -> None:
        """Leave, if we have joined; returns when nothing of it is left. Raises MembershipEnded."""
        if self._thread is None:
            return
        self._check_pid()
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._over.result()

    def _check_pid(self) -> None:
        if os.getpid() != self._pid:
            raise JoinedBeforeFork(
                f"the mesh was joined by process {self._pid}, before the fork of this one: start it in the "
                "server's post-fork hook (gunicorn post_fork, uwsgi postfork), in each worker"
            )

    def __enter__(self) -> BlockingMesh:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except Exception:
            if error is None:
                raise

    def _run(self, joined: Future[BlockingMesh]) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(self._stay(joined))
        except BaseException as error:
            if not joined.done():
                joined.set_exception(error)
                self._thread = None
            self._over.set_exception(error)
        else:
            self._over.set_result(None)

    async def _stay(self, joined: Future[BlockingMesh]) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        async with self._join() as mesh:
            self._mesh, self._member = mesh, BlockingMesh(mesh)
            joined.set_result(self._member)
            await self._stopping.wait()
