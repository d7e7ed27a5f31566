"""What a server that hangs costs those who ask it, and how it is taken up again."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Timer

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from hauberk.services.database import open_database
from hauberk.services.postgresql import ANSWER_S, IDLE_S, LOCK_WAIT_S
from hauberk.services.refusal import is_outage
from tests.postgresql import Postgresql, new_database, postgresql_process

TAKE = text("UPDATE stock SET number = number - 1 RETURNING number")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    with postgresql_process() as process:
        yield process


@pytest.fixture
def engine(server: Postgresql) -> Iterator[Engine]:
    engine = open_database(new_database(server.url))
    yield engine
    server.thaw()
    engine.dispose()


def ask(engine: Engine) -> float:
    """Seconds until a question failed."""
    began = time.monotonic()
    with pytest.raises(OperationalError, match="answer"), engine.begin() as connection:
        connection.execute(text("SELECT 1"))
    return time.monotonic() - began


def until_it_answers(engine: Engine) -> float:
    began = time.monotonic()
    while True:
        try:
            with engine.begin() as connection:
                connection.execute(text("SELECT 1"))
        except OperationalError:
            assert time.monotonic() - began < 10
            time.sleep(0.02)
        else:
            return time.monotonic() - began


@pytest.mark.alone
def test_the_first_wait_a_moment_the_next_not_at_all_and_nobody_has_to_mend_it(
    server: Postgresql, engine: Engine
) -> None:
    until_it_answers(engine)
    server.freeze()
    with ThreadPoolExecutor(8) as many:  # one has a connection, the others would have to open theirs
        first = list(many.map(lambda _: ask(engine), range(8)))
    assert max(first) < ANSWER_S + 0.5
    assert ask(engine) < 0.1
    server.thaw()
    assert until_it_answers(engine) < 3


@pytest.mark.alone
def test_a_lock_that_is_waited_for_is_no_silence(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE things (number integer)"))
    with engine.begin() as holder, engine.connect() as waiter:
        hold(holder, "things")
        began = time.monotonic()
        with pytest.raises(OperationalError, match="lock timeout"):
            waiter.execute(text("LOCK TABLE things"))
        assert LOCK_WAIT_S <= time.monotonic() - began < ANSWER_S
        waiter.rollback()
        assert waiter.scalar(text("SELECT 1")) == 1


@pytest.mark.alone
def test_several_locks_that_are_waited_for_are_no_silence_either(engine: Engine) -> None:
    """Each wait is short enough, and all together are longer than that for an answer."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE first (number integer); CREATE TABLE second (number integer)"))
    with engine.connect() as one, engine.begin() as other, engine.connect() as waiter:
        hold(one, "first")
        hold(other, "second")
        began = time.monotonic()
        releasing = Timer(LOCK_WAIT_S - 0.15, one.rollback)
        releasing.start()
        with pytest.raises(OperationalError, match="statement timeout") as caught:
            waiter.execute(text("LOCK TABLE first, second"))
        assert LOCK_WAIT_S < time.monotonic() - began < ANSWER_S
        releasing.join()
        waiter.rollback()
        assert is_outage(caught.value)
        assert waiter.scalar(text("SELECT 1")) == 1


def hold(connection: Connection, table: str) -> None:
    """Lock it until the transaction ends, as somebody who is at work."""
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    connection.execute(text(f"LOCK TABLE {table}"))


@pytest.mark.alone
@pytest.mark.parametrize("goes_on", ["with a statement", "with its commit"])
def test_a_transaction_that_lies_about_gives_its_locks_back_and_changes_nothing(
    engine: Engine, goes_on: str
) -> None:
    """As that of a replica which is frozen in the middle of a write, and thaws."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE stock (number integer)"))
        connection.execute(text("INSERT INTO stock VALUES (100)"))
    frozen = engine.connect()
    assert frozen.scalar(TAKE) == 99
    began = time.monotonic()
    with engine.begin() as twin:
        assert twin.scalar(TAKE) == 99, "nothing of the other's is left"
    assert IDLE_S - 0.1 < time.monotonic() - began < LOCK_WAIT_S
    with pytest.raises(DBAPIError) as caught:
        frozen.execute(TAKE) if goes_on == "with a statement" else frozen.commit()
    frozen.close()
    assert is_outage(caught.value), "its caller is told to try again"
    with engine.begin() as connection:
        assert connection.scalar(TAKE) == 98, "nobody has to mend the connections"
