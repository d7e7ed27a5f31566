"""Keeps children running: starts again what dies or stands still, more and more slowly, gives up loudly,
restarts what is asked for, and stops all in order.
"""

import asyncio
import contextlib
import random
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from hauberk.cli import standstill
from hauberk.cli.process import Launch, NoProgram, Process

LAST_LINES = 8
"""Lines of a child that gave up which are shown again with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How a child that keeps dying is treated: pure. Times in seconds."""

    first_s: float = 0.5
    longest_s: float = 15.0
    quick_s: float = 10.0
    """A run at least this long was no quick failure: what came before it is forgotten."""
    failures: int = 5
    """Quick failures in a row after which it is given up."""

    def pause(self, failures: int, jitter: float) -> float | None:
        """Before the next start, after that many quick failures; None: give up. `jitter` is 0 to 1."""
        if failures >= self.failures:
            return None
        return float(min(self.first_s * 2 ** max(0, failures - 1), self.longest_s) * (0.5 + jitter / 2))


class Condition(StrEnum):
    """Where a child stands."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "restarting"
    STOPPED = "stopped"
    GIVEN_UP = "given up"


class Child:
    """One process to keep running. `launch` is asked before each start: tokens work once."""

    may_stand_still = True
    """Whether it is left alone when somebody stops it (SIGSTOP), as a process that others can do without."""

    def __init__(self, name: str, launch: Callable[[], Awaitable[Launch]]) -> None:
        self.name = name
        self.launch = launch
        self.condition = Condition.STARTING
        self.starting: asyncio.Future[Launch] | None = None
        self.process: Process | None = None
        self.deaths = 0
        """How often it ended, or could not be started, without being asked to."""
        self.last_ending = ""
        """What became of it then, the last time."""
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self.asked = False
        """Whether the end it is about to come to is one that was asked for."""
        self.woken = asyncio.Event()
        """Ends a pause before the next start, also that of a child that was given up."""
        self.ended = asyncio.Event()
        """Set once no process of it runs and none will be started."""

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    @property
    def is_given_up(self) -> bool:
        return self.condition is Condition.GIVEN_UP


class Supervisor:
    """Runs children in one process group.

    `on_line(name, stream, line)` gets their output, `say(text)` what happens to them. `failed` is set
    when a child is given up: what that means is for whoever runs the supervisor, who may clear it.
    """

    def __init__(
        self,
        group: int,
        *,
        on_line: Callable[[str, str, str], None],
        say: Callable[[str], None],
        patience: Patience | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._group = group
        self._on_line = on_line
        self._say = say
        self._patience = patience or Patience()
        self._jitter = jitter
        self._stopping: set[str] = set()
        self.failed = asyncio.Event()
        self.children: dict[str, Child] = {}

    async def keep(self, child: Child) -> None:
        """Run `child`, again and again, until it is stopped. One that was given up waits to be restarted."""
        self.children[child.name] = child
        failures = 0
        try:
            while child.name not in self._stopping:
                began = time.monotonic()
                child.condition = Condition.STARTING
                hopeless = False
                try:
                    ending = await self._run(child)
                except NoProgram as error:
                    ending, hopeless = f"cannot be started: {error}", True
                if child.name in self._stopping:
                    break
                if child.asked:
                    child.asked, failures = False, 0
                    continue
                child.deaths += 1
                child.last_ending = ending
                failures = 1 if time.monotonic() - began >= self._patience.quick_s else failures + 1
                pause = None if hopeless else self._patience.pause(failures, self._jitter())
                if pause is None:
                    self._give_up(child, ending if hopeless else f"{ending}, {failures} times in a row")
                    failures = 0
                else:
                    child.condition = Condition.WAITING
                    self._say(f"{child.name} {ending}; starting it again in {pause:.1f} s")
                await self._sleep(child, pause)
            if not child.is_given_up:
                child.condition = Condition.STOPPED
        finally:
            child.ended.set()

    async def end(self, child: Child, grace_s: float) -> None:
        """End the process of `child` in good order, by force after `grace_s`: another is started at once.

        Where none runs, the pause before the next start is over.
        """
        process = child.process
        if process is None:
            if child.name not in self._stopping:
                child.condition = Condition.STARTING
            child.woken.set()
            return
        child.asked = True
        process.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await process.ended.wait()
        except TimeoutError:
            self._say(f"{child.name}: still running after {grace_s:g} s, killed")
            process.signal(signal.SIGKILL)
            await process.ended.wait()

    @property
    def given_up(self) -> list[Child]:
        return [child for child in self.children.values() if child.is_given_up]

    @property
    def died(self) -> list[Child]:
        """The children that ended at least once without being asked to."""
        return [child for child in self.children.values() if child.deaths]

    async def stop(self, names: Iterable[str], grace_s: float) -> None:
        """Ask these children to stop, wait at most `grace_s` seconds for all, then end what is left."""
        children = [self.children[name] for name in names if name in self.children]
        self._no_more(children)
        self._signal(children, signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await _all_ended(children)
        except TimeoutError:
            late = [child for child in children if not child.ended.is_set()]
            self._say(f"{', '.join(child.name for child in late)}: still running after {grace_s:g} s, killed")
            self._signal(late, signal.SIGKILL)
            await _all_ended(late)

    def forget(self, child: Child) -> None:
        """Know no more of a child that has ended: its name may be used again."""
        del self.children[child.name]
        self._stopping.discard(child.name)

    def kill(self) -> None:
        """End every child at once, and start none again."""
        self._no_more(self.children.values())
        self._signal(self.children.values(), signal.SIGKILL)

    async def _run(self, child: Child) -> str:
        """One start of `child` to its end; how it ended. Raises NoProgram."""
        try:
            launch = await self._launch(child)
            if launch is None or child.name in self._stopping:
                return "stopped"
            child.process = await Process.start(launch, self._group, lambda *line: self._line(child, *line))
        except NoProgram:
            raise
        except Exception as error:
            said = str(error) or type(error).__name__
            return f"cannot be started: {said}"
        child.condition = Condition.RUNNING
        if child.name in self._stopping:
            child.process.signal(signal.SIGTERM)
        try:
            return await _ended(child.process, may_stand_still=child.may_stand_still)
        finally:
            child.process = None

    async def _launch(self, child: Child) -> Launch | None:
        """What to start `child` with; None if it is stopped meanwhile, however long that would take."""
        child.starting = asyncio.ensure_future(child.launch())
        try:
            await asyncio.wait([child.starting])
        finally:
            child.starting.cancel()
        return None if child.starting.cancelled() else child.starting.result()

    def _no_more(self, children: Iterable[Child]) -> None:
        """Start none of these again, and wake or interrupt whoever is about to."""
        for child in children:
            self._stopping.add(child.name)
            child.woken.set()
            if child.starting:
                child.starting.cancel()

    def _line(self, child: Child, stream: str, line: str) -> None:
        child.last_lines.append(line)
        self._on_line(child.name, stream, line)

    def _give_up(self, child: Child, ending: str) -> None:
        child.condition = Condition.GIVEN_UP
        self._say(f"{child.name} {ending}: given up" + (". Its last lines:" if child.last_lines else ""))
        for line in child.last_lines:
            self._say(f"    {line}")
        self.failed.set()

    def _signal(self, children: Iterable[Child], number: signal.Signals) -> None:
        for child in children:
            if child.process:
                child.process.signal(number)

    async def _sleep(self, child: Child, pause_s: float | None) -> None:
        """Until the pause is over (None: it never is), or the child is stopped or to be restarted."""
        child.woken.clear()
        if child.name in self._stopping:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await child.woken.wait()


async def _ended(process: Process, *, may_stand_still: bool) -> str:
    """Wait for its end, which comes by force when it stands still and may not; how it came, in words."""
    async with asyncio.TaskGroup() as tasks:
        killing = None if may_stand_still else tasks.create_task(standstill.killed_for_it(process))
        code = await process.wait()
        if killing and killing.done():
            return killing.result()
        if killing:
            killing.cancel()
    return f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"


async def _all_ended(children: Iterable[Child]) -> None:
    for child in children:
        await child.ended.wait()
