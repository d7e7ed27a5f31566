"""The supervisor, with real small child processes: restarts, gives up, hands over secrets, leaves nothing
behind.
"""

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hauberk.cli.process import LONGEST_LINE, Launch, process_group
from hauberk.cli.supervisor import Child, Condition, Patience, Supervisor

QUICK = Patience(first_s=0.01, longest_s=0.02, quick_s=60, failures=3)


class Record:
    """What a supervisor told: lines of children, and what happened to them."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []
        self.said: list[str] = []
        self._news = asyncio.Event()

    def on_line(self, name: str, stream: str, line: str) -> None:
        self.lines.append((name, stream, line))
        self._news.set()

    def say(self, text: str) -> None:
        self.said.append(text)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def texts(self) -> list[str]:
        return [line for _, _, line in self.lines]


@asynccontextmanager
async def supervising(
    record: Record, *children: Child, patience: Patience = QUICK
) -> AsyncIterator[Supervisor]:
    async with process_group() as group, asyncio.TaskGroup() as tasks:
        supervisor = Supervisor(group, on_line=record.on_line, say=record.say, patience=patience)
        for child in children:
            tasks.create_task(supervisor.keep(child))
        try:
            yield supervisor
        finally:
            supervisor.kill()


def python(name: str, code: str, secrets: Mapping[str, str] | None = None) -> Child:
    return Child(name, launching(code, secrets or {}))


def launching(code: str, secrets: Mapping[str, str]) -> Callable[[], Awaitable[Launch]]:
    async def launch() -> Launch:
        return Launch(
            command=[sys.executable, "-c", textwrap.dedent(code)],
            environment={"PATH": os.environ["PATH"]},
            folder=Path.cwd(),
            secrets=secrets,
        )

    return launch


async def test_what_a_child_prints_comes_with_its_name_and_stream() -> None:
    record = Record()
    code = (
        "import sys, time; print('hello'); print('oh', file=sys.stderr); sys.stdout.flush(); time.sleep(60)"
    )
    async with supervising(record, python("orders-1", code)):
        await record.until(lambda: len(record.lines) == 2)
    assert sorted(record.lines) == [("orders-1", "err", "oh"), ("orders-1", "out", "hello")]


async def test_a_line_without_end_is_handed_on_in_parts() -> None:
    record = Record()
    code = f"import time; print('x' * {3 * LONGEST_LINE}, end='', flush=True); time.sleep(60)"
    async with supervising(record, python("a-1", code)):
        await record.until(lambda: sum(map(len, record.texts())) >= 2 * LONGEST_LINE)
    assert max(map(len, record.texts())) < 3 * LONGEST_LINE


async def test_a_child_that_dies_is_started_again() -> None:
    record = Record()
    async with supervising(record, python("a-1", "print('begun'); raise SystemExit(7)")) as supervisor:
        await record.until(lambda: record.texts().count("begun") >= 2)
        assert "a-1 ended with exit code 7; starting it again" in record.said[0]
        assert supervisor.children["a-1"].deaths >= 1


async def test_a_child_that_keeps_dying_is_given_up_with_its_last_words() -> None:
    record = Record()
    child = python("a-1", "print('no database'); raise SystemExit(3)")
    async with supervising(record, child) as supervisor:
        async with asyncio.timeout(20):
            await supervisor.failed.wait()
    assert record.texts() == ["no database"] * QUICK.failures
    assert child.condition is Condition.GIVEN_UP
    assert any("a-1 ended with exit code 3, 3 times in a row: given up" in said for said in record.said)
    assert "    no database" in record.said


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("/nowhere/such", "'/nowhere/such' is no program here"),
        ("pyhton", "'pyhton' is no program here"),
        (__file__, f"'{__file__}' may not be run"),
    ],
)
async def test_a_command_that_can_start_nothing_is_given_up_at_once_in_one_line(
    program: str, why: str
) -> None:
    async def launch() -> Launch:
        return Launch(command=[program], environment={"PATH": os.environ["PATH"]}, folder=Path.cwd())

    record = Record()
    async with supervising(record, Child("a-1", launch)) as supervisor:
        async with asyncio.timeout(20):
            await supervisor.failed.wait()
    assert record.said == [f"a-1 cannot be started: {why}: correct command in mesh.toml: given up"]


async def test_a_secret_comes_by_pipe_and_neither_by_environment_nor_by_arguments() -> None:
    record = Record()
    code = """
        import os, sys, time
        token = os.read(int(os.environ["TOKEN_FD"]), 99).decode()
        arguments = open("/proc/self/cmdline").read() if os.path.exists("/proc/self/cmdline") else ""
        print(token.startswith("hbk1."), len(token), token in str(os.environ) + arguments, flush=True)
        time.sleep(60)
    """
    async with supervising(record, python("a-1", code, {"TOKEN_FD": "hbk1.a-secret"})):
        await record.until(lambda: bool(record.lines))
    assert record.texts() == ["True 13 False"]


async def test_stop_asks_first_and_waits() -> None:
    record = Record()
    code = """
        import os, signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"bye"), sys.exit(0)))
        print("ready", flush=True)
        time.sleep(60)
    """
    child = python("a-1", code)
    async with supervising(record, child) as supervisor:
        await record.until(lambda: "ready" in record.texts())
        await supervisor.stop(["a-1"], grace_s=20)
        assert child.condition is Condition.STOPPED
    assert record.texts() == ["ready", "bye"]


async def test_stop_ends_by_force_what_does_not_listen() -> None:
    record = Record()
    code = """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready", flush=True)
        time.sleep(60)
    """
    child = python("a-1", code)
    async with supervising(record, child) as supervisor:
        await record.until(lambda: "ready" in record.texts())
        await supervisor.stop(["a-1"], grace_s=0.2)
        assert child.condition is Condition.STOPPED
    assert any("still running after 0.2 s, killed" in said for said in record.said)


async def test_a_child_whose_start_hangs_can_be_stopped() -> None:
    """Its token comes from a control plane that may be gone for good."""

    async def launch() -> Launch:
        await asyncio.Event().wait()
        raise AssertionError("it was stopped before")

    child = Child("a-1", launch)
    async with supervising(Record(), child) as supervisor, asyncio.timeout(20):
        await asyncio.sleep(0)
        await supervisor.stop(["a-1"], grace_s=20)
        assert child.condition is Condition.STOPPED


async def test_a_child_that_waits_to_be_started_again_can_be_stopped() -> None:
    record = Record()
    child = python("a-1", "raise SystemExit(1)")
    slow = Patience(first_s=60, longest_s=60)
    async with supervising(record, child, patience=slow) as supervisor, asyncio.timeout(20):
        await record.until(lambda: bool(record.said))
        await supervisor.stop(["a-1"], grace_s=20)
        assert child.condition is Condition.STOPPED


async def test_a_child_that_is_asked_to_end_is_started_again_at_once_and_has_not_died() -> None:
    record = Record()
    child = python("a-1", "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    slow = Patience(first_s=60, longest_s=60)
    async with supervising(record, child, patience=slow) as supervisor:
        await record.until(lambda: len(record.lines) == 1)
        await supervisor.end(child, grace_s=20)
        await record.until(lambda: len(record.lines) == 2)
        assert await gone(int(record.texts()[0]))
        assert (child.pid, child.deaths, record.said) == (int(record.texts()[1]), 0, [])


async def test_a_child_that_does_not_listen_to_its_end_is_killed_and_started_again() -> None:
    record = Record()
    code = """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready", flush=True)
        time.sleep(60)
    """
    child = python("a-1", code)
    async with supervising(record, child) as supervisor:
        await record.until(lambda: len(record.lines) == 1)
        await supervisor.end(child, grace_s=0.2)
        await record.until(lambda: len(record.lines) == 2)
    assert record.said == ["a-1: still running after 0.2 s, killed"]
    assert child.deaths == 0


@pytest.mark.parametrize("patience", [QUICK, Patience(first_s=60, longest_s=60)], ids=["lost", "waiting"])
async def test_a_child_that_does_not_run_is_started_when_asked_for(
    tmp_path: Path, patience: Patience
) -> None:
    record = Record()
    mended = tmp_path / "mended"
    code = f"import os, sys, time; os.path.exists({str(mended)!r}) or sys.exit(3); print('ok', flush=True)"
    child = python("a-1", code + "; time.sleep(60)")
    async with supervising(record, child, patience=patience) as supervisor:
        await record.until(lambda: child.is_given_up or child.condition is Condition.WAITING)
        if patience is QUICK:
            await supervisor.failed.wait()
        mended.touch()
        await supervisor.end(child, grace_s=20)
        assert not child.is_given_up
        await record.until(lambda: record.texts() == ["ok"])
        assert child.condition is Condition.RUNNING


async def test_a_child_that_was_given_up_can_be_stopped_and_stays_known_as_that() -> None:
    child = python("a-1", "raise SystemExit(3)")
    async with supervising(Record(), child) as supervisor, asyncio.timeout(20):
        await supervisor.failed.wait()
        await supervisor.stop(["a-1"], grace_s=20)
        assert supervisor.given_up == [child]


async def test_a_name_that_is_forgotten_may_be_used_again() -> None:
    record = Record()
    child = python("a-1", "import time; print('up', flush=True); time.sleep(60)")
    async with supervising(record, child) as supervisor, asyncio.TaskGroup() as tasks:
        await record.until(lambda: len(record.lines) == 1)
        await supervisor.stop(["a-1"], grace_s=20)
        supervisor.forget(child)
        assert not supervisor.children
        tasks.create_task(supervisor.keep(python("a-1", "print('again', flush=True)")))
        await record.until(lambda: "again" in record.texts())
        await supervisor.stop(["a-1"], grace_s=20)


async def test_a_grandchild_does_not_outlive_the_group() -> None:
    record = Record()
    code = """
        import subprocess, sys, time
        print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True)
        time.sleep(60)
    """
    async with supervising(record, python("a-1", code)):
        await record.until(lambda: bool(record.lines))
    assert await gone(int(record.texts()[0]))


async def test_nothing_is_left_when_the_supervisor_itself_is_killed() -> None:
    code = """
        import asyncio, sys
        sys.path.insert(0, ".")
        from tests.cli.test_supervisor import Record, python, supervising

        async def main():
            record = Record()
            stubborn = "import os, signal, time; signal.signal(15, signal.SIG_IGN);"
            stubborn += "print(os.getpid(), flush=True); time.sleep(60)"
            async with supervising(record, python("a-1", stubborn), python("b-1", stubborn)):
                await record.until(lambda: len(record.lines) == 2)
                print(*record.texts(), flush=True)
                await asyncio.sleep(60)

        asyncio.run(main())
    """
    root = Path(__file__).parents[2]
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(code), stdout=asyncio.subprocess.PIPE, cwd=root
    )
    assert running.stdout
    pids = [int(pid) for pid in (await running.stdout.readline()).split()]
    running.kill()
    await running.wait()
    assert len(pids) == 2
    for pid in pids:
        assert await gone(pid)


@pytest.mark.parametrize(
    ("failures", "pause"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, None), (6, None)]
)
def test_patience_doubles_and_ends(failures: int, pause: float | None) -> None:
    assert Patience().pause(failures, jitter=1.0) == pause


def test_pauses_are_spread_and_bounded() -> None:
    patience = Patience(failures=99)
    assert patience.pause(1, jitter=0.0) == 0.25
    assert patience.pause(90, jitter=1.0) == patience.longest_s


async def gone(pid: int) -> bool:
    """Wait, at most ten seconds, until the process is no more; a zombie has gone, nobody buried it yet."""
    ends = time.monotonic() + 10
    while (state := state_of(pid)) not in {"", "Z"}:
        assert time.monotonic() < ends, f"{pid} still lives, in state {state}"
        await asyncio.sleep(0.05)
    return True


def state_of(pid: int) -> str:
    """ps's letter for what the process does; empty if there is none."""
    listed = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, check=False)
    return listed.stdout.decode().strip()[:1]
