"""Backup and restore of what lies in PostgreSQL, by its own pg_dump and pg_restore."""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, make_url

from hauberk.certs.authority import Authority
from hauberk.certs.clock import utc_now
from hauberk.certs.errors import TokenUnknown
from hauberk.cli import archive, postgresql
from hauberk.cli.cut import cut
from hauberk.cli.databases import Database, ServerDatabase, SqliteFile
from hauberk.services.control.store import Store
from tests.cli.saved import MESH, Saved, read, refused, write
from tests.postgresql import emptied, new_database, programs


@pytest.fixture(autouse=True)
def _programs(postgresql_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{programs()}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def url(postgresql_server: str) -> str:
    return new_database(postgresql_server)


def with_database(tmp_path: Path, url: str, more: str = "") -> Saved:
    mesh = Saved.make(tmp_path / "mesh", MESH + f'env = {{ DATABASE_URL = "{url}" }}\n{more}')
    mesh.idle.unlink()
    return mesh


def execute(url: str, *statements: str) -> None:
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def said(url: str) -> list[str]:
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        found = [text for (text,) in connection.exec_driver_sql("SELECT text FROM said ORDER BY text")]
    engine.dispose()
    return found


def test_a_password_stands_in_no_argument_and_no_environment(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_dump itself runs; a script before it notes what it was started with."""
    seen = tmp_path / "seen"
    seen.mkdir()
    for name in ("pg_dump", "pg_restore"):
        script = f'#!/bin/sh\n{{ echo "$0 $@"; env; }} >> {seen}/{name}\nexec {programs()}/{name} "$@"\n'
        (seen / f"{name}.sh").write_text(script)
        (tmp_path / name).symlink_to(seen / f"{name}.sh")
        (seen / f"{name}.sh").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    execute(url, "CREATE TABLE said (text TEXT)", "INSERT INTO said VALUES ('kept')")
    secret = make_url(url).set(password="very-secret").render_as_string(hide_password=False)
    mesh = with_database(tmp_path, secret)
    backup = mesh.backup()
    with archive.reading(backup) as opened:
        assert [part.name for part in opened.manifest.having("postgresql/")] == ["postgresql/idle.dump"]
    emptied(url)
    assert mesh.run("restore", str(backup), "--force").exit_code == 0
    assert said(url) == ["kept"]
    for name in ("pg_dump", "pg_restore"):
        assert "--dbname=service=hauberk" in (seen / name).read_text()
        assert "very-secret" not in (seen / name).read_text()


def test_a_database_that_is_not_empty_is_never_overwritten(tmp_path: Path, url: str) -> None:
    execute(url, "CREATE TABLE said (text TEXT)", "INSERT INTO said VALUES ('before')")
    mesh = with_database(tmp_path, url)
    backup = mesh.backup()
    execute(url, "INSERT INTO said VALUES ('since')")
    roots = mesh.fingerprints()
    done = mesh.run("restore", str(backup), "--force")
    refused(done, "the postgresql database of idle is not empty: it has public.said", "an empty one")
    assert said(url) == ["before", "since"]
    assert mesh.fingerprints() == roots
    assert not list(mesh.state.folder.glob("replaced-*"))


def test_two_that_share_a_database_have_it_saved_once(tmp_path: Path, url: str) -> None:
    more = f'[workloads.twin]\ncommand = ["sleep", "600"]\nenv = {{ DATABASE_URL = "{url}" }}\n'
    backup = with_database(tmp_path, url, more).backup()
    with archive.reading(backup) as opened:
        assert [part.name for part in opened.manifest.having("postgresql/")] == ["postgresql/idle.dump"]


def test_control_planes_store_comes_back_without_its_tokens(tmp_path: Path, url: str) -> None:
    mesh = Saved.make(tmp_path / "mesh", MESH + f'[control]\ndatabase = "{url}"\n')
    mesh_id = Authority.load(mesh.state.ca).mesh_id
    with contextlib.closing(Store.open(url)) as store:
        store.claim(mesh_id, "saved.test", new=True)
        digest = mesh.invite("idle", store)
    mesh.state.control_database.unlink()
    backup = mesh.backup()
    emptied(url)
    assert mesh.run("restore", str(backup), "--force").exit_code == 0
    with contextlib.closing(Store.open(url)) as store:
        store.claim(mesh_id, "saved.test", new=False)
        assert set(store.bindings()) == {"idle.v1.Idle"}
        with pytest.raises(TokenUnknown):
            store.invited(digest, utc_now())


def test_no_pair_of_writes_is_torn_between_servers_and_files(
    tmp_path: Path, url: str, postgresql_server: str
) -> None:
    """First one, then the other, as a saga does: a cut may miss the second, never the first alone."""
    urls = [url, new_database(postgresql_server)]
    for each in urls:
        execute(each, "CREATE TABLE said (text TEXT)")
    write(tmp_path / "own.db", "0")
    databases: list[Database] = [
        ServerDatabase(part="postgresql/a.dump", owners=("a",), url=make_url(urls[0])),
        SqliteFile(part="databases/b.db", owners=("b",), path=tmp_path / "own.db"),
        ServerDatabase(part="postgresql/c.dump", owners=("c",), url=make_url(urls[1])),
    ]
    with _writing(urls[0], tmp_path / "own.db", urls[1]):
        for attempt in range(4):
            time.sleep(0.1)
            fresh = [new_database(postgresql_server) for _ in urls]
            with cut(databases) as taken:
                time.sleep(0.05)  # what is written now is not in it
                taken.books["postgresql/a.dump"].copy(tmp_path / f"a{attempt}")
                taken.books["databases/b.db"].copy(tmp_path / f"b{attempt}")
                taken.books["postgresql/c.dump"].copy(tmp_path / f"c{attempt}")
            for to, dump in zip(fresh, ("a", "c"), strict=True):
                made = ServerDatabase(part="", owners=(dump,), url=make_url(to))
                postgresql.fill(made, tmp_path / f"{dump}{attempt}")
            counts = [len(said(fresh[0])), len(read(tmp_path / f"b{attempt}")) - 1, len(said(fresh[1]))]
            assert sorted(counts, reverse=True) == counts
            assert counts[0] - counts[2] <= 1
    assert counts[0] > 20, "somebody wrote meanwhile"


def test_a_client_older_than_the_server_is_named(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What pg_dump itself says is in the line."""
    (tmp_path / "pg_dump").write_text(
        "#!/bin/sh\necho 'pg_dump: error: server version mismatch' >&2\nexit 1\n"
    )
    (tmp_path / "pg_dump").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    done = with_database(tmp_path, url).run("backup", str(tmp_path / "backup"), "--plain-keys")
    refused(done, "the postgresql database of idle: pg_dump: error: server version mismatch", "as new as")
    assert not (tmp_path / "backup").exists()


@contextlib.contextmanager
def _writing(first: str, second: Path, third: str) -> Iterator[None]:
    """One row to each in turn, each committed before the next is begun."""
    over = threading.Event()

    def insert(number: int, *connections: psycopg.Connection[Any] | sqlite3.Connection) -> None:
        for connection in connections:
            connection.execute(f"INSERT INTO said VALUES ('{number}')")

    def keep_writing() -> None:
        with (
            psycopg.connect(first, autocommit=True) as a,
            contextlib.closing(sqlite3.connect(second, isolation_level=None, timeout=5)) as b,
            psycopg.connect(third, autocommit=True) as c,
        ):
            number = 0
            while not over.is_set():
                insert(number := number + 1, a, b, c)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()
