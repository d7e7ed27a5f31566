"""One instant of several databases: what is copied is what was pinned, and nobody waits for the copying."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hauberk.cli.cut import cut
from hauberk.cli.databases import SqliteFile
from hauberk.cli.errors import CommandFailed
from tests.cli.saved import read, write


def database(path: Path) -> SqliteFile:
    return SqliteFile(part=f"databases/{path.name}", owners=(path.stem,), path=path)


@pytest.fixture
def two(tmp_path: Path) -> list[SqliteFile]:
    paths = [tmp_path / "a.db", tmp_path / "b.db"]
    for path in paths:
        write(path, "before")
    return [database(path) for path in paths]


def test_what_is_written_after_the_instant_is_not_copied(two: list[SqliteFile], tmp_path: Path) -> None:
    """Committed to the log, and moved from there into the file: the pinned reader sees neither."""
    with contextlib.closing(sqlite3.connect(two[0].path)) as other:
        with cut(two) as taken:
            write(two[0].path, "after")
            other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            for part, book in taken.books.items():
                book.copy(tmp_path / Path(part).name.replace(".db", ".copy"))
        assert read(two[0].path) == ["before", "after"]
    assert read(tmp_path / "a.copy") == ["before"]
    assert read(tmp_path / "b.copy") == ["before"]


def test_what_is_only_in_the_log_is_copied_and_the_copy_has_no_log(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as service:
        service.execute("PRAGMA journal_mode = WAL")
        service.execute("PRAGMA wal_autocheckpoint = 0")
        service.execute("CREATE TABLE said (text)")
        service.execute("INSERT INTO said VALUES ('in the log')")
        with cut([database(tmp_path / "a.db")]) as taken:
            taken.books["databases/a.db"].copy(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes()[18:20] == b"\x01\x01", (
        "no write-ahead log: file format versions 1"
    )
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy"]
    assert read(tmp_path / "copy") == ["in the log"]


def test_a_database_without_a_log_is_copied_too(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as service:
        service.execute("CREATE TABLE said (text)")
        service.execute("INSERT INTO said VALUES ('old fashioned')")
        with cut([database(tmp_path / "a.db")]) as taken:
            taken.books["databases/a.db"].copy(tmp_path / "copy")
    assert read(tmp_path / "copy") == ["old fashioned"]


def test_no_pair_of_writes_is_torn(two: list[SqliteFile], tmp_path: Path) -> None:
    """First a, then b, as a saga does: a cut may miss the second, never the first alone."""
    with _writing_pairs(two):
        for attempt in range(20):
            with cut(two) as taken:
                copies = [tmp_path / f"{attempt}-{number}" for number in range(2)]
                for copy, book in zip(copies, taken.books.values(), strict=True):
                    book.copy(copy)
            first, second = map(read, copies)
            assert len(first) - len(second) in (0, 1)
            assert first[: len(second)] == second
            time.sleep(0.005)
    assert len(first) > 20, "somebody wrote meanwhile"


@pytest.mark.alone
def test_writers_are_held_up_for_the_instant_only(two: list[SqliteFile]) -> None:
    with cut(two) as taken:
        began = time.monotonic()
        write(two[0].path, "while it is pinned")
        assert time.monotonic() - began < 1
    assert 0 < taken.held_ms < 500


def test_a_writer_that_never_ends_is_named_and_lets_the_others_write(two: list[SqliteFile]) -> None:
    with contextlib.closing(sqlite3.connect(two[1].path, isolation_level=None)) as busy:
        busy.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(CommandFailed, match=r"kept writing to the .* for 0\.2 s"),
            cut(two, patience_s=0.2),
        ):
            pass
        write(two[0].path, "its lock was given back")


@pytest.mark.parametrize(
    "content",
    [b"no database at all, and long enough to be looked at" * 40, b"SQLite format 3\0" + b"\xff" * 4000],
)
def test_what_is_no_database_is_named(two: list[SqliteFile], content: bytes) -> None:
    two[1].path.write_bytes(content)
    with pytest.raises(CommandFailed, match=r"b\.db: .*(not a database|malformed)"), cut(two):
        pass


def test_a_damaged_database_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    write(path, "much " * 10_000)
    pages = bytearray(path.read_bytes())
    pages[8192:12288] = bytes(4096)
    path.write_bytes(pages)
    with cut([database(path)]) as taken, pytest.raises(CommandFailed, match=r"a\.db.*(damaged|malformed)"):
        taken.books["databases/a.db"].copy(tmp_path / "copy")


@contextlib.contextmanager
def _writing_pairs(two: list[SqliteFile]) -> Iterator[None]:
    over = threading.Event()

    def keep_writing() -> None:
        first, second = (sqlite3.connect(each.path, isolation_level=None, timeout=5) for each in two)
        with contextlib.closing(first), contextlib.closing(second):
            number = 0
            while not over.is_set():
                for connection in (first, second):
                    connection.execute("INSERT INTO said VALUES (?)", (str(number),))
                number += 1

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()
