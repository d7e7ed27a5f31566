"""Restarts the processes of a running mesh one after another, so that callers do not notice.

Each is asked to end, as SIGTERM asks it: it drains. It is started again with a fresh join token, and the next
one's turn comes when this one is offered to callers and says itself that it serves. Where no other replica of
its workload serves meanwhile, a spare one is started before and ended after.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from hauberk.certs.identity import SpiffeId
from hauberk.cli.errors import CommandFailed
from hauberk.cli.health import check_health
from hauberk.cli.local_mesh import CONTROL, GRACE_S, LocalMesh, Replica
from hauberk.cli.logs import file_name
from hauberk.cli.supervisor import LAST_LINES, Child, Supervisor
from hauberk.cli.up_socket import Asker, Request

BACK_S = 30.0
"""How long a process may take from its start until it serves."""
CONTROL_S = 5.0
"""How long the control plane may take to answer before a workload's turn."""
TOLD_S = 0.3
"""Callers hear of what the control plane lists at most 0.15 s later, and then have to connect."""
STEADY_S = 2.0
"""How long a process that serves nothing has to run to be taken for started."""
_POLL_S = 0.1

Tell = Callable[[dict[str, Any]], Awaitable[None]]


class RollingRestart:
    """Answers the requests for restarts of one `hauberk up`: one at a time."""

    def __init__(self, local: LocalMesh, supervisor: Supervisor, tasks: asyncio.TaskGroup) -> None:
        """`tasks` is where spare processes are kept; it must outlive every answer."""
        self._local = local
        self._supervisor = supervisor
        self._tasks = tasks
        self._busy = False

    async def answer(self, request: Request, asker: Asker) -> None:
        """Restart what is asked for, telling of each step; the last line says how it ended."""
        if self._busy:
            failure = CommandFailed("another restart is under way", "wait for its end: hauberk ps")
            await asker.tell(_failed(failure))
            return
        self._busy = True
        try:
            await self._all(request, asker)
            await asker.tell({"event": "done"})
        except CommandFailed as error:
            await asker.tell(_failed(error))
        finally:
            self._busy = False

    async def _all(self, request: Request, asker: Asker) -> None:
        turns = self._turns(request.workloads)
        left = [child.name for _, children in turns for child in children]
        for name, children in turns:
            if asker.gone.is_set():
                raise self._stopped(left)
            if name != CONTROL:
                await self._check_control()
            spare = await self._spare(name, children, request.spare, asker.tell)
            try:
                for child in children:
                    if asker.gone.is_set():
                        raise self._stopped(left)
                    await self._one(child, asker.tell)
                    left.remove(child.name)
            finally:
                if spare is not None:
                    await self._dismiss(spare)
                    await asker.tell({"event": "spare ended", "replica": spare.name})

    async def _check_control(self) -> None:
        """What is ended now has to be invited again."""
        try:
            async with asyncio.timeout(CONTROL_S):
                await self._local.rows()
        except TimeoutError:
            raise CommandFailed(
                "the control plane does not answer, so nothing that ends could join again: nothing was ended",
                "hauberk restart control; or find out why: hauberk doctor",
            ) from None

    def _stopped(self, left: Sequence[str]) -> CommandFailed:
        return CommandFailed(
            f"stopped as asked; not restarted: {', '.join(left)}",
            f"go on: hauberk restart {' '.join(dict.fromkeys(self._workloads(left)))}",
        )

    def _turns(self, names: Sequence[str]) -> list[tuple[str, list[Child]]]:
        """Workloads and their processes in the order of their restart: the control plane last, as a workload
        that leaves while it is away can tell no caller.
        """
        workloads: dict[str, list[Child]] = {}
        all_names = [*self._workloads(self._local.workloads), CONTROL]
        for name in sorted(dict.fromkeys(names or all_names), key=lambda name: name == CONTROL):
            replicas = [child for child in self._local.workloads.values() if child.workload == name]
            children: list[Child] = [self._local.control] if name == CONTROL else list(replicas)
            if not children:
                known = ", ".join(dict.fromkeys(all_names))
                raise CommandFailed(f"no workload {name!r:.99} in this mesh", f"there are: {known}")
            # What does not run comes first: should it not start, those that serve are left alone.
            workloads[name] = sorted(children, key=lambda child: child.pid is not None)
        return list(workloads.items())

    async def _spare(self, name: str, children: Sequence[Child], wanted: bool, tell: Tell) -> Replica | None:
        """A replica more, serving, where callers would else find nobody; None where they would not."""
        [child, *others] = children
        if others or not isinstance(child, Replica) or child.pid is None or not child.serves:
            return None
        if not (wanted and child.takes_any_port):
            await tell({"event": "alone", "replica": child.name})
            return None
        spare = self._local.spare(name)
        await tell({"event": "spare starts", "replica": spare.name})
        self._tasks.create_task(self._supervisor.keep(spare))
        began = time.monotonic()
        try:
            await self._until_back(spare, None)
        except BaseException:
            await self._dismiss(spare)
            raise
        await tell({"event": "spare serves", "replica": spare.name, "seconds": _since(began)})
        return spare

    async def _dismiss(self, spare: Replica) -> None:
        await self._supervisor.stop([spare.name], GRACE_S)
        self._supervisor.forget(spare)

    async def _one(self, child: Child, tell: Tell) -> None:
        """Restart one process. Raises CommandFailed if it does not come back in time."""
        began, before = time.monotonic(), child.process
        if before:
            await tell({"event": "ending", "replica": child.name, "pid": before.pid})
        await self._supervisor.end(child, GRACE_S)
        if before:
            await tell({"event": "ended", "replica": child.name, "seconds": _since(began)})
        else:
            await tell({"event": "absent", "replica": child.name})
        ended = time.monotonic()
        await self._until_back(child, before)
        await tell(
            {
                "event": "serves",
                "replica": child.name,
                "seconds": _since(ended),
                "pid_before": before.pid if before else None,
                "pid": child.pid,
            }
        )

    async def _until_back(self, child: Child, before: object) -> None:
        try:
            async with asyncio.timeout(BACK_S):
                while child.process is None or child.process is before:
                    await self._pause(child)
                if isinstance(child, Replica) and not child.serves:
                    await self._stays(child)
                else:
                    await self._serves(child)
                    await asyncio.sleep(TOLD_S)
        except TimeoutError:
            raise _not_back(child, f"does not serve within {BACK_S:g} s") from None

    async def _serves(self, child: Child) -> None:
        """Wait until `child` is offered to callers, and answers that it serves."""
        while True:
            row = await self._local.row(child)
            if row.serves:
                identity = SpiffeId.parse(row.identity)
                health = await check_health(row.address, identity, self._local.credentials)
                if health["health"] == "SERVING":
                    return
            await self._pause(child)

    async def _stays(self, child: Child) -> None:
        """Wait until one process of `child` has run for a while. A pause between two starts is no run."""
        since, process = time.monotonic(), child.process
        while process is None or time.monotonic() - since < STEADY_S:
            await self._pause(child)
            if child.process is not process:
                since, process = time.monotonic(), child.process

    async def _pause(self, child: Child) -> None:
        if child.is_given_up:
            raise _not_back(child, f"was given up: {child.last_ending}")
        if child.ended.is_set():
            raise CommandFailed("`hauberk up` is stopping: nothing more is restarted")
        await asyncio.sleep(_POLL_S)

    def _workloads(self, children: Iterable[str]) -> list[str]:
        return [CONTROL if name == CONTROL else self._local.workloads[name].workload for name in children]


def _not_back(child: Child, why: str) -> CommandFailed:
    lines = "".join(f"\n    {line}" for line in list(child.last_lines)[-LAST_LINES:])
    return CommandFailed(
        f"{child.name} {why}; nothing further is restarted{'. Its last lines:' if lines else ''}{lines}",
        f"read .hauberk/logs/{file_name(child.name)}, mend it, then restart the rest",
    )


def _failed(error: CommandFailed) -> dict[str, Any]:
    return {"event": "failed", "message": error.message, "next_step": error.next_step}


def _since(began: float) -> float:
    return round(time.monotonic() - began, 2)
