"""What a server that hangs costs those who ask it, and how it is taken up again."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from hauberk.services.database import open_database
from hauberk.services.postgresql import ANSWER_S, LOCK_WAIT_S
from tests.postgresql import Postgresql, new_database, postgresql_process


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


def test_a_lock_that_is_waited_for_is_no_silence(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE things (number integer)"))
    with engine.begin() as holder, engine.connect() as waiter:
        holder.execute(text("LOCK TABLE things"))
        began = time.monotonic()
        with pytest.raises(OperationalError, match="lock timeout"):
            waiter.execute(text("LOCK TABLE things"))
        assert LOCK_WAIT_S <= time.monotonic() - began < ANSWER_S
        waiter.rollback()
        assert waiter.scalar(text("SELECT 1")) == 1
