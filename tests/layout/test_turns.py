"""Tests that are alone: each of these tests has workers of its own, threads, and its own hall."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from tests.turns import Turns

STILL_S = 0.2
"""Who has not got a turn by then waits for it."""


class Workers:
    """Three of them; each enters in a thread, as entering may wait."""

    def __init__(self, folder: Path, threads: ThreadPoolExecutor) -> None:
        self.turns = [Turns(folder) for _ in range(3)]
        self._threads = threads

    def enters(self, worker: int, *, alone: bool = False) -> Future[None]:
        return self._threads.submit(self.turns[worker].enter, alone=alone)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    with ThreadPoolExecutor(3) as threads:
        yield Workers(tmp_path, threads)


def waits(entering: Future[None]) -> bool:
    wait([entering], timeout=STILL_S)
    return not entering.done()


def test_tests_share_the_hall(workers: Workers) -> None:
    workers.enters(0).result(10)
    workers.enters(1).result(10)


def test_one_that_is_alone_waits_for_all_others_and_they_for_it(workers: Workers) -> None:
    workers.enters(0).result(10)
    alone = workers.enters(1, alone=True)
    assert waits(alone)
    workers.turns[0].leave(stays=False)
    alone.result(10)
    other = workers.enters(2)
    assert waits(other)
    workers.turns[1].leave(stays=False)
    other.result(10)


def test_nobody_enters_before_one_that_waits_to_be_alone(workers: Workers) -> None:
    workers.enters(0).result(10)
    alone = workers.enters(1, alone=True)
    assert waits(alone)
    newcomer = workers.enters(2)
    assert waits(newcomer), "although the hall is shared now"
    workers.turns[0].leave(stays=False)
    alone.result(10)
    assert waits(newcomer)
    workers.turns[1].leave(stays=False)
    newcomer.result(10)


def test_one_that_stays_alone_lets_nobody_in_between(workers: Workers) -> None:
    workers.enters(0, alone=True).result(10)
    other = workers.enters(1)
    workers.turns[0].leave(stays=True)
    assert waits(other)
    workers.enters(0, alone=True).result(10)
    workers.turns[0].leave(stays=False)
    other.result(10)


def test_who_leaves_the_hall_shared_does_not_stay_in_it(workers: Workers) -> None:
    workers.enters(0).result(10)
    workers.turns[0].leave(stays=True)
    workers.enters(1, alone=True).result(10)
