"""One service's database: SQLite by default, PostgreSQL by URL, brought to its newest form at start.

A process uses it through `asyncio.to_thread`: nothing here may run on the event loop. Write in
`engine.begin()`, read in `reading(engine)`. Decide by single conditional statements (UPDATE ... WHERE ...
RETURNING), which are atomic on both; only SQLite also keeps other writers out from the start of a transaction
(BEGIN IMMEDIATE).
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from zlib import crc32

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import (
    URL,
    Connection,
    DateTime,
    Dialect,
    Engine,
    TypeDecorator,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from hauberk.services import wal

SQLITE_WAIT_S = 5
"""How long a transaction waits for SQLite's one lock before it fails; for PostgreSQL see postgresql.py."""
UPGRADE_WAIT_S = 30
"""How long a replica waits for another to upgrade their PostgreSQL database."""
UPGRADE_IDLE_S = 10
"""How long an upgrade may lie between two statements: one that is frozen keeps the others from starting."""


class DatabaseError(Exception):
    """A database that cannot be opened or upgraded; `str()` is one line that names the remedy."""


class Instant(TypeDecorator[datetime]):
    """A column of aware UTC datetimes, to the microsecond, on both engines."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without a time zone is no instant")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def open_database(url: str) -> Engine:
    """The engine for `sqlite:////path/to/file.db` or `postgresql://user@host/name`; the caller disposes it.

    A new SQLite file is made 0600 (SQLite gives its journals the same mode) in a folder of 0700; one that
    others can read is refused. Raises DatabaseError; does not connect yet.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise DatabaseError("database url cannot be read; write sqlite:////file or postgresql://…") from None
    match parsed.get_backend_name():
        case "sqlite":
            return _open_sqlite(parsed)
        case "postgresql":
            return _open_postgresql(parsed)
        case other:
            raise DatabaseError(f"database is neither sqlite nor postgresql: {other!r:.99}")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads, sees one state throughout, and holds up no writer."""
    with engine.connect().execution_options(hauberk_reading=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        yield connection


def upgrade(engine: Engine, package: str) -> None:
    """Bring the tables of `package` ("hauberk.services.catalog") to its newest migration, all or nothing.

    Replicas may start at once: one upgrades, the others wait. Raises DatabaseError, also for a database that
    a newer build has written.
    """
    service = package.rpartition(".")[2]
    config = Config(attributes={"version_table": f"{service}_alembic_version"})
    config.set_main_option("script_location", _escaped(files("hauberk.services") / "migrations"))
    config.set_main_option("version_locations", _escaped(files(package) / "migrations"))
    config.set_main_option("path_separator", "newline")
    try:
        with engine.begin() as connection, _unhurried(connection):
            if engine.dialect.name == "postgresql":
                lock = crc32(f"hauberk {service}".encode())
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except (CommandError, SQLAlchemyError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise DatabaseError(
            f"database of {service} cannot be brought to this build's form: {first_line}; "
            f"if a newer build wrote it, run that one"
        ) from error


def _open_sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:" or url.query:
        raise DatabaseError("sqlite database is no plain file; write sqlite:////path/file.db")
    _claim(Path(url.database))
    # A connection for each thread that asks, and those are bounded: who reads must not wait for one behind
    # writers that wait for the lock.
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"), max_overflow=-1, connect_args={"timeout": SQLITE_WAIT_S}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    wal.keep_short(engine, Path(url.database))
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _claim(path: Path) -> None:
    """Make the file, or refuse one that other users of the machine can open."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise DatabaseError(f"database file cannot be opened: {path}: {error.strerror}") from error
    if mode & 0o077:
        raise DatabaseError(f"database file is open to other users ({mode:04o}); run: chmod 600 {path}")


def _prepare_sqlite(connection: Any, _: ConnectionPoolEntry) -> None:  # a DBAPI connection has no type
    # The driver's own transactions start too late (at the first write): SQLAlchemy's begin does it, below.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("hauberk_reading", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _open_postgresql(url: URL) -> Engine:
    try:
        from hauberk.services import postgresql
    except ImportError as error:
        raise DatabaseError("postgresql needs a driver; run: pip install 'hauberk[postgres]'") from error
    server = postgresql.Server()
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_timeout=postgresql.CONNECT_S,
        connect_args={
            "connect_timeout": postgresql.CONNECT_S,
            "options": f"{postgresql.server_limits()} -c timezone=UTC",
            "application_name": "hauberk",
        },
    )

    def connect(_: Dialect, __: ConnectionPoolEntry, arguments: tuple[Any, ...], options: Any) -> Any:
        return server.connect(*arguments, **options)

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "engine_disposed", lambda _: server.close())
    return engine


@contextmanager
def _unhurried(connection: Connection) -> Iterator[None]:
    """Let the statements inside take as long as they do: an upgrade is nobody's call."""
    if connection.dialect.name != "postgresql":
        yield
        return
    driver: Any = connection.connection.driver_connection
    limit, driver.answer_s = driver.answer_s, None
    try:
        limits = {
            "idle_in_transaction_session_timeout": f"{UPGRADE_IDLE_S}s",
            "lock_timeout": f"{UPGRADE_WAIT_S}s",
            "statement_timeout": "0",
        }
        # All in one exchange: between two, the old ones hold.
        connection.execute(text("; ".join(f"SET LOCAL {name} = '{limits[name]}'" for name in limits)))
        yield
    finally:
        driver.answer_s = limit


def _escaped(path: object) -> str:
    """As alembic's configuration wants it: a percent sign doubled."""
    return str(path).replace("%", "%%")
