"""A mesh whose processes a test starts, kills and stops one by one: nothing restarts what has died.

They are the processes of `hauberk up`, started as it starts them; the test is the operator, and may join as
any caller. Everything ends with the block.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import hauberk
from hauberk.cli import authority
from hauberk.cli.local_mesh import CONTROL, LocalMesh, Row
from hauberk.cli.mesh_file import Workload
from hauberk.cli.process import Launch, Process, process_group
from hauberk.cli.state import State
from hauberk.cli.supervisor import Child, Condition, Supervisor
from hauberk.errors import MembershipEnded
from hauberk.protos.hauberk.control.v1 import admin_pb2_grpc
from hauberk.settings import Settings

READY_S = 30.0
STOP_S = 20.0


class Fleet:
    """Processes by their names: "control", "orders-1". Made by `fleet`."""

    def __init__(self, state: State, local: LocalMesh, group: int, members: AsyncExitStack) -> None:
        self.state = state
        self.local = local
        self.output: list[str] = []
        """Every line that a process said, as "orders-1 | ..."."""
        self.before: dict[str, Sequence[str]] = {}
        """By process: words put before its command at its next start ("ip", "netns", "exec", ...)."""
        self.environment: dict[str, Mapping[str, str]] = defaultdict(dict)
        """By process: variables added at its next start."""
        self._group = group
        self._members = members
        self._waiting: dict[str, asyncio.Task[int]] = {}
        self._began: dict[str, int] = {}
        """Where in `output` the last start of each process begins."""

    @property
    def names(self) -> list[str]:
        """Every process of the mesh, running or not."""
        return [CONTROL, *self.local.workloads]

    @property
    def running(self) -> list[str]:
        """Those that have been started and not ended."""
        return [name for name, waiting in self._waiting.items() if not waiting.done()]

    async def start(self, *names: str) -> None:
        """Start these, one after another; those to serve do not serve yet when it returns."""
        for name in names:
            child = self._child(name)
            self._began[name] = len(self.output)
            launch = self._changed(name, await child.launch())
            child.process = await Process.start(launch, self._group, self._listener(name))
            child.condition = Condition.RUNNING
            self._waiting[name] = asyncio.create_task(self._wait(child, child.process))

    async def serving(self, *names: str, within: float = READY_S) -> list[Row]:
        """Wait until callers have been told of all of these (every one, if none is named); their rows.

        Listed is not yet told: the control plane gathers changes, and answers an announcement after that.
        """
        wanted = set(names or self.names)
        async with asyncio.timeout(within):
            while True:
                rows = [row for row in await self.local.rows() if row.name in wanted]
                if all(row.serves and self._is_announced(row) for row in rows):
                    return rows
                await asyncio.sleep(0.05)

    def pid(self, name: str) -> int:
        pid = self._child(name).pid
        assert pid is not None, f"{name} does not run"
        return pid

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self.pid(name), number)

    async def kill(self, name: str) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(name, signal.SIGKILL)
        await self.ended(name)

    def freeze(self, name: str) -> None:
        """It keeps its connections, and does nothing."""
        self.signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self.signal(name, signal.SIGCONT)

    async def stop(self, name: str) -> int:
        """SIGTERM, and wait; its exit code."""
        self.signal(name, signal.SIGTERM)
        return await self.ended(name)

    async def ended(self, name: str, within: float = STOP_S) -> int:
        """Wait for its end; its exit code, negative for a signal."""
        async with asyncio.timeout(within):
            return await asyncio.shield(self._waiting[name])

    async def invited(self, name: str, **settings: Any) -> Settings:
        """What a process of this name needs to join, a token included; a workload's bindings stay."""
        known = self.state.mesh().workloads.get(name, Workload(command=("test",)))
        token = await self.local._invite(name, known)
        token_file = self.state.folder / f"{name.replace('/', '.')}.token"
        token_file.write_text(token)
        token_file.chmod(0o600)
        addresses = await self.local.answers()
        return Settings(
            name=name,
            state_dir=self.state.workload(name, "test"),
            enrolment=addresses.enrolment,
            roots=self.state.roots,
            join_token_file=token_file,
            **settings,
        )

    async def member(self, name: str, *, ends: bool = False, **settings: Any) -> hauberk.Mesh:
        """Join as `name` in this process, as a caller that serves nothing, until the fleet's end.

        A workload of the mesh may be named too: its processes go on serving what they serve. If the
        membership `ends` before that, so be it.
        """
        if ends:
            self._members.enter_context(contextlib.suppress(MembershipEnded))
        joined = hauberk.join(await self.invited(name, **settings))
        return await self._members.enter_async_context(joined)

    @property
    def admin(self) -> Any:
        """A stub of the control plane's Admin service, for the operator."""
        assert self.local._operator is not None
        return admin_pb2_grpc.AdminStub(self.local._operator.control)

    def said(self, name: str, text: str) -> list[str]:
        """What `name` said so far with `text` in it."""
        return [line for line in self.output if line.startswith(f"{name} | ") and text in line]

    async def end(self) -> None:
        """End whatever still runs, frozen or not."""
        for name in self.running:
            with contextlib.suppress(ProcessLookupError):
                self.signal(name, signal.SIGKILL)
        await asyncio.gather(*self._waiting.values())

    def _child(self, name: str) -> Child:
        return self.local.control if name == CONTROL else self.local.workloads[name]

    def _is_announced(self, row: Row) -> bool:
        """Whether callers know of what runs now under this name; one without an address serves nothing."""
        said = f"{row.name} | "
        lines = (line for line in self.output[self._began[row.name] :] if line.startswith(said))
        return row.name == CONTROL or not row.address or any("announced at" in line for line in lines)

    def _changed(self, name: str, launch: Launch) -> Launch:
        environment = {**launch.environment, **self.environment[name]}
        return replace(launch, command=[*self.before.get(name, ()), *launch.command], environment=environment)

    def _listener(self, name: str) -> Callable[[str, str], None]:
        return lambda _, line: self.output.append(f"{name} | {line}")

    async def _wait(self, child: Child, process: Process) -> int:
        code = await process.wait()
        child.process, child.condition = None, Condition.STOPPED
        return code


@asynccontextmanager
async def fleet(
    folder: Path,
    mesh_toml: str,
    *,
    start: Iterable[str] | None = None,
    prepare: Callable[[Fleet], None] = lambda _: None,
) -> AsyncIterator[Fleet]:
    """The mesh of `mesh_toml` in `folder`: control, then `start` (None: every workload), all serving.

    `prepare` may change how they are started. Nothing of it runs when the block has been left.
    """
    (folder / "mesh.toml").write_text(mesh_toml)
    state = State.beside(folder / "mesh.toml")
    mesh = state.mesh()
    state.make()
    if not authority.exists(state):
        authority.create(state, mesh)
    async with process_group() as group, AsyncExitStack() as stack:
        supervisor = Supervisor(group, on_line=_unused, say=_unused)
        local = LocalMesh(state, mesh, supervisor, access_log=False)
        members = AsyncExitStack()
        made = Fleet(state, local, group, members)
        prepare(made)
        stack.push_async_callback(made.end)
        await made.start(CONTROL)
        await stack.enter_async_context(local.joined())
        await stack.enter_async_context(members)
        names = list(local.workloads if start is None else start)
        await made.start(*names)
        await made.serving(CONTROL, *names)
        yield made


def _unused(*_: str) -> None:
    """Nothing is supervised here."""


async def eventually(holds: Callable[[], bool], *, within: float, pause: float = 0.02) -> float:
    """Wait until it holds; how long that took. Raises TimeoutError."""
    began = time.monotonic()
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(pause)
    return time.monotonic() - began
