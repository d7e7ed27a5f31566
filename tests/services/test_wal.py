"""SQLite's write-ahead log stays short, whatever reads meanwhile."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from hauberk.services import wal
from hauberk.services.database import open_database, reading

MIB = 1024 * 1024
BLOB = bytes(200 * 1024)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    engine = opened(path)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE blobs (number INTEGER PRIMARY KEY, blob BLOB)"))
    yield engine
    engine.dispose()


def opened(path: Path) -> Engine:
    return open_database(f"sqlite:///{path}")


def write(engine: Engine, number: int) -> None:
    statement = text("INSERT OR REPLACE INTO blobs VALUES (:number, :blob)")
    with engine.begin() as connection:
        connection.execute(statement, {"number": number % 50, "blob": BLOB})


def length(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size


@pytest.mark.alone
def test_under_readers_that_never_pause_the_log_stays_short(engine: Engine, path: Path) -> None:
    """Two engines stand for two replicas, neither of which knows of the other's readers."""
    twin, stopping = opened(path), threading.Event()
    longest = 0

    def read(from_where: Engine) -> None:
        while not stopping.is_set():
            with reading(from_where) as connection:
                connection.execute(text("SELECT count(*) FROM blobs")).all()
                time.sleep(0.003)

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read, each) for each in (engine, twin) for _ in range(4)]
        try:
            for number in range(300):
                write((engine, twin)[number % 2], number)
                longest = max(longest, length(path))
        finally:
            stopping.set()
        for each in readers:
            each.result()
    twin.dispose()
    written = 300 * len(BLOB)
    assert written > 6 * wal.MOST_BYTES
    assert longest < wal.MOST_BYTES + 6 * MIB, f"{longest / MIB:.1f} MiB"


@pytest.mark.alone
def test_a_reader_that_stays_holds_nobody_up_for_long_and_the_log_goes_after_it(
    engine: Engine, path: Path
) -> None:
    with reading(engine) as connection:
        connection.execute(text("SELECT count(*) FROM blobs")).all()
        began = time.monotonic()
        for number in range(80):
            write(engine, number)
        took = time.monotonic() - began
        assert length(path) > wal.MOST_BYTES, "it is needed as long as it is read"
        assert took < 6 * (wal.WAIT_S + wal.PAUSE_S)
    time.sleep(wal.PAUSE_S)
    write(engine, 0)
    assert length(path) == 0
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT count(*) FROM blobs")) == 50
