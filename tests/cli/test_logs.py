"""The logs of a mesh's processes: bounded, ours alone, and never in anybody's way."""

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hauberk.cli import logs
from hauberk.cli.logs import Logs


@pytest.fixture
def said() -> list[str]:
    return []


def test_lines_are_kept_with_the_time_across_runs_and_ours_alone(tmp_path: Path, said: list[str]) -> None:
    for line in ("first run", "second run"):
        kept = Logs(tmp_path, say=said.append)
        kept.write("orders-1", line)
        kept.close()
    path = tmp_path / "orders-1.log"
    assert re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (first|second) run\n){2}", path.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert said == []


def test_however_much_is_said_two_files_of_bounded_size_are_kept(tmp_path: Path, said: list[str]) -> None:
    kept = Logs(tmp_path, say=said.append, most_bytes=10_000)
    for number in range(5_000):
        kept.write("orders-1", f"line {number}")
    kept.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["orders-1.log", "orders-1.log.1"]
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 10_000
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    latest = (tmp_path / "orders-1.log.1").read_text() + (tmp_path / "orders-1.log").read_text()
    numbers = [int(line.rpartition(" ")[2]) for line in latest.splitlines()]
    assert numbers == list(range(numbers[0], 5_000)), "the last ones, without a gap"


def test_one_endless_line_is_kept_and_goes_with_the_next(tmp_path: Path, said: list[str]) -> None:
    kept = Logs(tmp_path, say=said.append, most_bytes=1000)
    for _ in range(3):
        kept.write("a-1", "x" * 5000)
    kept.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2 * 5100


def test_logs_of_processes_that_the_mesh_no_longer_has_go(tmp_path: Path, said: list[str]) -> None:
    for name in ("orders-1.log", "orders-2.log", "orders-2.log.1", "prod.orders-1.log", "notes.txt"):
        (tmp_path / name).touch()
    Logs(tmp_path, say=said.append).keep_only(["orders-1", "prod/orders-1"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "notes.txt",
        "orders-1.log",
        "prod.orders-1.log",
    ]


def test_a_link_is_not_followed(tmp_path: Path, said: list[str]) -> None:
    folder, elsewhere = tmp_path / "logs", tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "a-1.log").symlink_to(elsewhere)
    Logs(folder, say=said.append).write("a-1", "hello")
    assert not elsewhere.exists()
    assert len(said) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root: it mounts a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_said_once_and_logs_go_on_when_there_is_room(
    small_disk: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "RETRY_S", 0.0)
    kept = Logs(small_disk, say=said.append)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(60 * 1024))
    for _ in range(1000):
        kept.write("a-1", "x" * 100)
    assert said == [f"logs are not kept in {small_disk} for now: no space left on device"]
    ballast.unlink()
    kept.write("a-1", "room again")
    kept.close()
    assert (small_disk / "a-1.log").read_text().rstrip().endswith("room again")
    assert len(said) == 1


def test_a_full_disk_is_not_asked_for_every_line(small_disk: Path, said: list[str]) -> None:
    kept = Logs(small_disk, say=said.append)
    (small_disk / "ballast").write_bytes(bytes(64 * 1024))
    kept.write("a-1", "no room")
    (small_disk / "ballast").unlink()
    kept.write("a-1", "too soon to try")
    assert (small_disk / "a-1.log").read_bytes() == b""
