"""PostgreSQL in backup and restore: its own pg_dump and pg_restore do it, we only say of which instant.

A snapshot that one transaction exports (pg_export_snapshot) is what pg_dump reads, however long it takes:
https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-SNAPSHOT-SYNCHRONIZATION. All tables
are locked (SHARE: readers go on) for the moment in which it is taken. A password goes by a service file
(https://www.postgresql.org/docs/current/libpq-pgservice.html), never by an argument or the environment.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hauberk.cli.databases import CONTROL, Busy, ServerDatabase
from hauberk.cli.errors import CommandFailed

if TYPE_CHECKING:
    import psycopg

CONNECT_S = 5
LOCK_MS = 300
"""Below PostgreSQL's deadlock_timeout (1 s): if a writer and we wait for each other, we give way."""
_TABLES = """
    SELECT format('%I.%I', schemaname, tablename) FROM pg_catalog.pg_tables
    WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1
"""


class PostgresqlBook:
    """One database as the cut sees it; see cut.Book."""

    def __init__(self, database: ServerDatabase) -> None:
        """Raises CommandFailed if it cannot be reached, or its tools are not here."""
        self._database = database
        self._pg_dump = _program("pg_dump", database)
        self._snapshot = ""
        with ExitStack() as opening, _told(database):
            self._writer = opening.enter_context(closing(_connected(database)))
            self._reader = opening.enter_context(closing(_connected(database)))
            self._tables = _tables(self._writer)
            self._open = opening.pop_all()

    def lock(self, until: float) -> None:
        from psycopg.errors import DeadlockDetected, LockNotAvailable

        while True:
            try:
                with _told(self._database):
                    self._writer.execute("BEGIN")
                    self._writer.execute(f"SET LOCAL lock_timeout = {LOCK_MS}".encode())
                    if self._tables:
                        self._writer.execute(f"LOCK TABLE {', '.join(self._tables)} IN SHARE MODE".encode())
                return
            except CommandFailed as failed:
                if not isinstance(failed.__cause__, LockNotAvailable | DeadlockDetected):
                    raise
                self.unlock()
                if time.monotonic() > until:
                    raise Busy from None

    def pin(self) -> None:
        with _told(self._database):
            self._reader.rollback()
            self._reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self._reader.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            row = self._reader.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None  # noqa: S101 - a SELECT of one value
        self._snapshot = str(row[0])

    def unlock(self) -> None:
        with _told(self._database):
            self._writer.rollback()

    def copy(self, to: Path) -> None:
        command = [self._pg_dump, "--format=custom", *_PLAIN, f"--snapshot={self._snapshot}", f"--file={to}"]
        if CONTROL in self._database.owners:
            command.append("--exclude-table-data=join_tokens")  # none of them may come back to life
        _run(command, self._database)

    def close(self) -> None:
        self._open.close()


def check_empty(database: ServerDatabase) -> None:
    """Raises CommandFailed if it has a table: what is there, we neither overwrite nor delete."""
    _program("pg_restore", database)
    with _told(database), closing(_connected(database)) as connection:
        if found := _tables(connection):
            raise CommandFailed(
                f"{database} is not empty: it has {found[0]}",
                "give it an empty one (DROP DATABASE, CREATE DATABASE), or name a new one in mesh.toml",
            )


def fill(database: ServerDatabase, dump: Path) -> None:
    """Restore the dump, all of it or nothing. Raises CommandFailed."""
    _run([_program("pg_restore", database), *_PLAIN, "--single-transaction", str(dump)], database)


_PLAIN = ("--no-owner", "--no-privileges", "--no-password")


def _connected(database: ServerDatabase) -> "psycopg.Connection[tuple[object, ...]]":
    try:
        import psycopg
    except ImportError:
        raise CommandFailed(f"{database} needs a driver", "pip install 'hauberk[postgres]'") from None
    return psycopg.connect(
        _conninfo(database), connect_timeout=CONNECT_S, autocommit=True, application_name="hauberk backup"
    )


def _tables(connection: "psycopg.Connection[tuple[object, ...]]") -> list[str]:
    """Every table that is not the system's, quoted."""
    return [str(name) for (name,) in connection.execute(_TABLES)]


def _program(name: str, database: ServerDatabase) -> str:
    found = shutil.which(name)
    if found is None:
        raise CommandFailed(
            f"{database} needs {name}, which is not on the PATH",
            "install PostgreSQL's client of the server's version; or save and restore it by its own tools: "
            f"hauberk backup --without {database.owners[0]}",
        )
    return found


def _run(command: list[str], database: ServerDatabase) -> None:
    """Run one of PostgreSQL's programs on the database; how to reach it stands in a private file alone."""
    from psycopg.conninfo import conninfo_to_dict

    reached = conninfo_to_dict(_conninfo(database), connect_timeout=CONNECT_S)
    with tempfile.TemporaryDirectory(prefix="hauberk-") as folder:
        service = Path(folder) / "service"
        lines = [f"{key}={value}\n" for key, value in reached.items()]
        service.touch(mode=0o600)
        service.write_text("".join(["[hauberk]\n", *lines]))
        done = subprocess.run(  # noqa: S603 - PostgreSQL's own program, no shell
            [*command, "--dbname=service=hauberk"],
            env={**os.environ, "PGSERVICEFILE": str(service)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        said = next(iter(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        raise CommandFailed(
            f"{database}: {said}", "the client must be as new as the server, and let in by it"
        )


def _conninfo(database: ServerDatabase) -> str:
    return database.url.set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def _told(database: ServerDatabase) -> Iterator[None]:
    """Turns the driver's error into CommandFailed; no password is in its text."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("psycopg"):  # which may not be installed
            raise
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise CommandFailed(f"{database}: {said}", "see that it runs, and lets us in") from error
