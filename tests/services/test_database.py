"""What a service may rely on, whichever engine its database runs on."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, Table, inspect, literal, select, text
from sqlalchemy.exc import DBAPIError, StatementError

from hauberk.services.database import DatabaseError, Instant, open_database, reading, upgrade

FIRST = """
from alembic import op
import sqlalchemy as sa
revision = "0001"
down_revision = None
def upgrade():
    op.create_table("things", sa.Column("number", sa.Integer(), primary_key=True))
"""
SECOND = """
from alembic import op
import sqlalchemy as sa
revision = "0002"
down_revision = "0001"
def upgrade():
    op.add_column("things", sa.Column("colour", sa.Text(), nullable=True))
"""
BROKEN = SECOND + '    op.execute("SELECT * FROM no_such_table")\n'


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_database(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A service that has one migration; `migrations/` of it can be added to."""
    name = f"service_{uuid4().hex}"
    monkeypatch.syspath_prepend(tmp_path / "100% ours")
    (tmp_path / "100% ours" / name / "migrations").mkdir(parents=True)
    (tmp_path / "100% ours" / name / "__init__.py").touch()
    (migrations(tmp_path) / "0001_things.py").write_text(FIRST)
    return name


def migrations(tmp_path: Path) -> Path:
    [folder] = tmp_path.glob("100% ours/*/migrations")
    return folder


def columns(engine: Engine) -> set[str]:
    inspector = inspect(engine)
    return (
        {column["name"] for column in inspector.get_columns("things")}
        if inspector.has_table("things")
        else set()
    )


def test_upgrade_runs_every_migration_once(engine: Engine, package: str, tmp_path: Path) -> None:
    upgrade(engine, package)
    assert columns(engine) == {"number"}
    (migrations(tmp_path) / "0002_colour.py").write_text(SECOND)
    upgrade(engine, package)
    upgrade(engine, package)
    assert columns(engine) == {"number", "colour"}


def test_failed_upgrade_leaves_the_database_as_it_was(engine: Engine, package: str, tmp_path: Path) -> None:
    upgrade(engine, package)
    (migrations(tmp_path) / "0002_broken.py").write_text(BROKEN)
    with pytest.raises(DatabaseError, match=r"cannot be brought to this build's form.*no_such_table"):
        upgrade(engine, package)
    assert columns(engine) == {"number"}


def test_database_of_a_newer_build_is_refused(engine: Engine, package: str, tmp_path: Path) -> None:
    (migrations(tmp_path) / "0002_colour.py").write_text(SECOND)
    upgrade(engine, package)
    (migrations(tmp_path) / "0002_colour.py").unlink()
    with pytest.raises(DatabaseError, match=r"0002.*newer build"):
        upgrade(engine, package)


def test_replicas_that_start_at_once_upgrade_once(
    engine: Engine, database_url: str, package: str, tmp_path: Path
) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from hauberk.services.database import *;"
        "upgrade(open_database(sys.argv[2]), sys.argv[3])"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "100% ours"), database_url, package]
    replicas = [subprocess.Popen(command) for _ in range(3)]
    assert [replica.wait() for replica in replicas] == [0, 0, 0]
    assert columns(engine) == {"number"}


def test_instants_come_back_aware_and_exact(engine: Engine) -> None:
    moments = Table("moments", MetaData(), Column("n", Integer, primary_key=True), Column("at", Instant()))
    at = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    with engine.begin() as connection:
        moments.create(connection)
        connection.execute(moments.insert(), [{"n": 1, "at": at}, {"n": 2, "at": None}])
        connection.execute(moments.insert().values(n=3, at=at + timedelta(seconds=1)))
    with reading(engine) as connection:
        rows = {n: at for n, at in connection.execute(select(moments.c.n, moments.c.at))}  # noqa: C416
        later = connection.scalars(select(moments.c.n).where(moments.c.at > at)).all()
    assert rows[1] == at
    assert rows[1].tzinfo is UTC or rows[1].utcoffset() == timedelta(0)
    assert rows[2] is None
    assert later == [3]


def test_instant_without_a_time_zone_is_refused(engine: Engine) -> None:
    naive = datetime(2031, 5, 6)  # noqa: DTZ001
    with pytest.raises(StatementError, match="no instant"), engine.begin() as connection:
        connection.execute(select(literal(naive, Instant())))


def test_reading_sees_one_state_and_holds_up_no_writer(engine: Engine, package: str) -> None:
    upgrade(engine, package)
    count = text("SELECT count(*) FROM things")
    with reading(engine) as connection:
        assert connection.scalar(count) == 0
        with engine.begin() as writer:
            writer.execute(text("INSERT INTO things VALUES (1)"))
        assert connection.scalar(count) == 0
    with reading(engine) as connection:
        assert connection.scalar(count) == 1


def test_second_writer_waits_for_the_first_on_sqlite(tmp_path: Path, package: str) -> None:
    """What a transaction has read is still so when it writes: no upgrade of a read lock that could fail."""
    engine = open_database(f"sqlite:///{tmp_path}/test.db")
    upgrade(engine, package)

    def add_one() -> None:
        with engine.begin() as connection:
            seen = connection.scalar(text("SELECT count(*) FROM things"))
            connection.execute(text("INSERT INTO things VALUES (:n)"), {"n": seen})

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(add_one) for _ in range(40)]:
            done.result()
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT max(number) FROM things")) == 39
    engine.dispose()


def test_foreign_keys_hold(engine: Engine, package: str) -> None:
    upgrade(engine, package)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE parts (thing INTEGER NOT NULL REFERENCES things (number))"))
    with pytest.raises(DBAPIError), engine.begin() as connection:
        connection.execute(text("INSERT INTO parts VALUES (99)"))


def test_sqlite_files_are_for_their_owner_alone(tmp_path: Path, package: str) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/new/test.db")
    upgrade(engine, package)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    assert "test.db-wal" in modes
    assert set(modes.values()) == {0o600}
    engine.dispose()


def test_sqlite_file_open_to_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "loose.db"
    path.touch(0o644)
    path.chmod(0o644)
    with pytest.raises(DatabaseError, match=r"open to other users \(0644\).*chmod 600"):
        open_database(f"sqlite:///{path}")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "cannot be read"),
        ("orders.db", "cannot be read"),
        ("mysql://somewhere/orders", "neither sqlite nor postgresql: 'mysql'"),
        ("sqlite://", "no plain file"),
        ("sqlite:///:memory:", "no plain file"),
        ("sqlite:////tmp/x.db?mode=ro", "no plain file"),
        ("sqlite:////proc/nowhere/x.db", "cannot be opened: /proc/nowhere/x.db"),
    ],
)
def test_other_urls_are_refused(url: str, says: str) -> None:
    with pytest.raises(DatabaseError, match=says):
        open_database(url)


def test_each_step_of_an_upgrade_is_told_once(
    engine: Engine, package: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        upgrade(engine, package)
        upgrade(engine, package)
    assert [record.message for record in caplog.records] == ["database upgraded to 0001"]
