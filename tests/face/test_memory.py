"""New calls are refused while this process uses too much memory, and what was freed is given back."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from hauberk import memory
from hauberk.memory import Memory
from hauberk.settings import Settings
from tests.face.town import SERVICE, Town, echo, policy, refused
from tests.interceptors.stage import info

MIB = 2**20


class Used:
    """What the process is said to use."""

    def __init__(self, mib: int) -> None:
        self.mib = mib

    def __call__(self) -> int:
        return self.mib * MIB


@asynccontextmanager
async def kept(limit_mib: int, used: Callable[[], int | None]) -> AsyncIterator[Memory]:
    made = Memory(limit_mib * MIB, used=used, trim=lambda: None)
    keeping = asyncio.create_task(made.keep())
    yield made
    keeping.cancel()


async def becomes(made: Memory, short: bool) -> None:
    async with asyncio.timeout(5):
        async for value in made.short.changes():
            if value is short:
                return


async def test_short_above_the_limit_and_until_a_tenth_below_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "LOOK_S", 0.01)
    caplog.set_level(logging.INFO, "hauberk.memory")
    used = Used(90)
    async with kept(100, used) as made:
        used.mib = 101
        await becomes(made, True)
        used.mib = 91
        await asyncio.sleep(0.1)
        assert made.short.value
        used.mib = 89
        await becomes(made, False)
        used.mib = 99
        await asyncio.sleep(0.1)
        assert not made.short.value
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "new calls are refused: this process uses 101 MiB of memory, more than 100",
        "calls are taken again: this process uses 89 MiB of memory",
    ]


async def test_where_nothing_can_be_told_nothing_is_refused() -> None:
    made = Memory(1, used=lambda: None)
    await made.keep()
    assert not made.short.value


async def test_server_short_of_memory_refuses_by_name_and_is_not_serving(town: Town) -> None:
    server = town.server()
    server.add(SERVICE, town.lab.handlers(), {"Echo": policy("Echo")})
    await server.start()
    channel = town.channel(server.address)
    server.refuse_for_memory(True)
    error = await refused(channel)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert info(error).reason == "MEMORY_SHORT"
    assert not server._health.serving()
    assert town.lab.ran == 0
    server.refuse_for_memory(False)
    assert await echo(channel) == b"hello"
    assert server._health.serving()


async def test_what_refuses_for_another_reason_goes_on_refusing(town: Town) -> None:
    server = town.server()
    server.refuse_for_memory(True)
    server.refuse_all("no identity")
    server.refuse_for_memory(False)
    assert not server._health.serving()
    server.refuse_all("")
    assert server._health.serving()


@pytest.mark.parametrize(
    ("groups", "limits", "found"),
    [
        ("0::/a/b\n", {"memory.max": "max", "a/memory.max": "1000", "a/b/memory.max": "2000"}, [2000, 1000]),
        (
            "0::/elsewhere\n",
            {"memory.max": "3000"},
            [3000],
        ),  # in a container
        ("4:cpu:/x\n3:memory:/a\n", {"memory/a/memory.limit_in_bytes": "4000"}, [4000]),
        ("3:memory:/a\n", {}, []),
    ],
    ids=["v2", "container", "v1", "none"],
)
def test_limits_of_control_groups_are_found(
    tmp_path: Path, groups: str, limits: dict[str, str], found: list[int]
) -> None:
    for name, said in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(said + "\n")
    (tmp_path / "cgroup").write_text(groups)
    assert list(memory._group_limits(tmp_path / "cgroup", tmp_path)) == found


def test_default_limit_is_below_what_there_is() -> None:
    resident = memory.resident()
    assert resident is not None
    assert resident < memory.default_limit() <= 0.8 * _machine_bytes() + 1


def _machine_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    (total,) = (line for line in lines if line.startswith("MemTotal:"))
    return int(total.split()[1]) * 1024


@pytest.mark.parametrize(
    ("written", "size"), [("1048576", MIB), ("512MiB", 512 * MIB), ("2GiB", 2048 * MIB), (4 * MIB, 4 * MIB)]
)
def test_limit_is_a_setting(written: str | int, size: int, tmp_path: Path) -> None:
    made = Settings(
        name="a",
        state_dir=tmp_path,
        enrolment="h:1",
        roots=tmp_path,
        memory_limit=written,  # type: ignore[arg-type]
    )
    assert made.memory_limit == size
