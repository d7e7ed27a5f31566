"""A file of lines that is bounded, whoever writes it."""

import multiprocessing
import stat
from pathlib import Path

import pytest

from hauberk.interceptors.rotated_file import RotatedFile


def test_it_is_for_its_owner_alone_and_made_by_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "audit" / "calls.log"
    file = RotatedFile(path, most_bytes=100)
    assert not path.parent.exists()
    file.append(b"a\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_what_is_there_stays(tmp_path: Path) -> None:
    for line in (b"a\n", b"b\n"):
        file = RotatedFile(tmp_path / "x", most_bytes=100)
        file.append(line)
        file.close()
    assert (tmp_path / "x").read_bytes() == b"a\nb\n"


def test_it_is_turned_at_its_bound_and_the_oldest_falls_off(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "x", most_bytes=4, kept=2)
    for line in b"123456789":
        file.append(bytes([line]) + b"\n")
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert found == {"x": b"9\n", "x.1": b"7\n8\n", "x.2": b"5\n6\n"}


def test_line_longer_than_the_bound_is_written(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "x", most_bytes=4)
    file.append(b"a long line\n")
    file.append(b"b\n")
    assert (tmp_path / "x.1").read_bytes() == b"a long line\n"


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_what_somebody_else_took_away_is_begun_anew(tmp_path: Path, how: str) -> None:
    path = tmp_path / "x"
    file = RotatedFile(path, most_bytes=4)
    file.append(b"a\n")
    if how == "removed":
        path.unlink()
        file.append(b"b\n")
    else:
        path.rename(tmp_path / "y")
        file.append(b"b\n")
        file.append(b"c\n")
        assert path.read_bytes() == b"c\n"
        return
    assert path.read_bytes() == b"b\n"


def test_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"symbolic|link"):
        RotatedFile(tmp_path / "x", most_bytes=4).append(b"a\n")
    assert not (tmp_path / "elsewhere").exists()


def _write(path: Path, name: str) -> None:
    file = RotatedFile(path, most_bytes=2000, kept=1000)
    for number in range(500):
        file.append(f"{name}-{number}\n".encode())


def test_several_processes_lose_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write, args=(tmp_path / "x", name)) for name in ("a", "b", "c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted(f"{name}-{number}" for name in ("a", "b", "c") for number in range(500))
    assert len(list(tmp_path.iterdir())) > 3
