"""A control plane that finds its store emptied or damaged says so, and does not start."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hauberk.cli.local_mesh import CONTROL
from hauberk.services.control.tables import metadata
from tests.mesh.fleet import fleet
from tests.mesh.running import shop


def emptied(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(f"DELETE FROM {table.name}")
        connection.commit()


def deleted(file: Path) -> None:
    for each in file.parent.glob(f"{file.name}*"):
        each.unlink()


def overwritten(file: Path) -> None:
    deleted(file)
    file.write_bytes(b"garbage " * 10_000)
    file.chmod(0o600)


def overwritten_in_the_middle(file: Path) -> None:
    content = file.read_bytes()
    middle = len(content) // 8192 * 4096
    file.write_bytes(content[:middle] + b"garbage " * 500 + content[middle + 4000 :])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (deleted, "the store is empty, but mesh"),
        (emptied, "the store is empty, but mesh"),
        (overwritten, "the database file is damaged or no database at all: restore it from a backup"),
        (overwritten_in_the_middle, "the database file is damaged or no database at all: restore it"),
    ],
)
async def test_a_store_that_lost_what_it_knew_is_refused_at_start(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    async with fleet(tmp_path, shop(), start=[]) as mesh:
        assert await mesh.stop(CONTROL) == 0
        spoil(mesh.state.folder / "control" / "control.db")
        before = len(mesh.output)
        await mesh.start(CONTROL)
        assert await mesh.ended(CONTROL) == 1
        (line,) = [line for line in mesh.output[before:] if said in line]
        assert line.startswith("control | hauberk control: ")
        assert not any("Traceback" in line for line in mesh.output)
