"""One instant of several databases in use: all their writers are held for milliseconds, and each is pinned.

Every database is locked against writers, in a fixed order; then each is given a reader that goes on seeing
what it holds now; then the locks go, and the readers take their time. So no order is in one book and not
in the next. Who writes meanwhile waits for the lock, as it waits for any other writer.

On SQLite a write lock is BEGIN IMMEDIATE, and a reader's transaction pins its snapshot of the write-ahead log
(https://www.sqlite.org/isolation.html); a database without one is consistent as well, but its writers wait
until it has been copied. On PostgreSQL see postgresql.py.
"""

import random
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hauberk.cli.databases import Busy, Database, SqliteFile
from hauberk.cli.errors import CommandFailed
from hauberk.cli.postgresql import PostgresqlBook

ROUND_S = 0.5
"""How long the locks of one attempt are waited for: a tenth of what a service waits before it fails."""
PATIENCE_S = 30.0
OPENING_S = 5.0
_POLL_S = 0.001


class Book(Protocol):
    """One database as the cut sees it."""

    def lock(self, until: float) -> None:
        """Keep writers out. Raises Busy at `until` (monotonic)."""

    def pin(self) -> None:
        """From now on see what the database holds now; a pin of before is forgotten. Raises Busy."""

    def unlock(self) -> None:
        """Let writers in; nothing if they were not kept out."""

    def copy(self, to: Path) -> None:
        """Write what was pinned to a new file."""

    def close(self) -> None:
        """Let go of everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The databases as they were at one instant, until the block that made it ends."""

    books: Mapping[str, Book]
    """By part."""
    held_ms: float
    """How long writers were kept out: from the first lock to the last release."""


@contextmanager
def cut(databases: Sequence[Database], *, patience_s: float = PATIENCE_S) -> Iterator[Cut]:
    """Pin all of these at one instant.

    Raises CommandFailed if one cannot be read, or if they are not all at rest once in `patience_s` seconds.
    """
    with ExitStack() as stack:
        books: dict[str, Book] = {}
        for database in databases:
            book = _SqliteBook(database) if isinstance(database, SqliteFile) else PostgresqlBook(database)
            books[database.part] = stack.enter_context(closing(book))
        ends = time.monotonic() + patience_s
        while (held := _pin_all(list(books.values()))) is None:
            if time.monotonic() > ends:
                raise CommandFailed(
                    f"somebody has kept writing to the databases for {patience_s:g} s", "try again later"
                )
            time.sleep(random.uniform(0.02, 0.1))  # noqa: S311 - so that nobody keeps step with us
        yield Cut(books=books, held_ms=round(1000 * held, 3))


def _pin_all(books: Sequence[Book]) -> float | None:
    """The seconds that writers were kept out, or None if it did not come to that in time."""
    began = time.monotonic()
    try:
        for book in books:
            book.lock(began + ROUND_S)
        for book in books:
            book.pin()
    except Busy:
        return None
    finally:
        for book in books:
            book.unlock()
    return time.monotonic() - began


class _SqliteBook:
    def __init__(self, database: SqliteFile) -> None:
        self._path = database.path
        try:
            with _told(self._path):
                self._writer, self._reader = self._connected(), self._connected()
        except Busy:
            raise CommandFailed(f"{self._path} is locked since {OPENING_S:g} s", "find out by whom") from None

    def lock(self, until: float) -> None:
        while True:
            try:
                with _told(self._path):
                    self._writer.execute("BEGIN IMMEDIATE")
                return
            except Busy:
                if time.monotonic() > until:
                    raise
            time.sleep(_POLL_S)

    def pin(self) -> None:
        with _told(self._path):
            if self._reader.in_transaction:
                self._reader.execute("ROLLBACK")
            self._reader.execute("BEGIN")
            self._reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # BEGIN alone reads nothing

    def unlock(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def copy(self, to: Path) -> None:
        """The pages that the reader's transaction sees, as one file without a journal, found to be sound."""
        room = "is there room for its copy, and is the disk sound?"
        with _told(self._path, room), closing(sqlite3.connect(to, isolation_level=None)) as copy:
            self._reader.backup(copy, pages=-1)
            copy.execute("PRAGMA journal_mode = DELETE")
            (found,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise CommandFailed(
                f"{self._path} is damaged: {str(found).splitlines()[0]}", "restore it from an older backup"
            )

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def _connected(self) -> sqlite3.Connection:
        # mode=rw: one that is not there is an error and not a new one.
        uri = f"{self._path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, timeout=OPENING_S, isolation_level=None)
        connection.execute("PRAGMA schema_version").fetchone()
        connection.execute("PRAGMA busy_timeout = 0")
        return connection


@contextmanager
def _told(path: Path, next_step: str = "") -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Busy from None
        raise CommandFailed(
            f"{path}: {error}", next_step or "find out why; to leave it out of the backup: --without NAME"
        ) from None
