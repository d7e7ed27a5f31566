"""Who waits for a thread goes by priority; where too many wait, who matters least is refused."""

import asyncio
import threading
from collections.abc import Callable

import grpc
import pytest
from grpc.aio import AioRpcError

from hauberk.interceptors.demands import Priority
from hauberk.interceptors.errors import PUSHBACK_KEY
from hauberk.interceptors.workers import Workers
from tests.interceptors.stage import Shape, Stage, call, info
from tests.interceptors.test_threaded import Deaf, echo, serve

LOW, NORMAL, HIGH = Priority
SERVED_BY = ("threaded",)


class Queue:
    """One worker, which is busy until it is let go, and notes what it does then."""

    def __init__(self, most_waiting: int) -> None:
        self.workers, self.done = Workers(1), list[str]()
        self.workers.most_waiting = most_waiting
        self._let_go, self._emptied = threading.Event(), threading.Event()
        self.shed = list[str]()
        self.workers.run(self._wait, NORMAL, self._never)

    def put(self, name: str, priority: Priority) -> None:
        shed = self.workers.run(self._noting(self.done, name), priority, self._noting(self.shed, name))
        if shed is not None:
            shed()

    def finish(self) -> list[str]:
        self.workers.run(self._emptied.set, LOW, self._never)
        self._let_go.set()
        assert self._emptied.wait(10)
        self.workers.close()
        return self.done

    def _wait(self) -> None:
        self._let_go.wait(10)

    def _noting(self, names: list[str], name: str) -> Callable[[], None]:
        return lambda: names.append(name)

    def _never(self) -> None:
        raise AssertionError


def test_the_highest_priority_goes_first_and_equal_ones_as_they_came() -> None:
    queue = Queue(most_waiting=100)
    for name, priority in (("a", LOW), ("b", NORMAL), ("c", HIGH), ("d", NORMAL), ("e", HIGH), ("f", LOW)):
        queue.put(name, priority)
    assert queue.finish() == ["c", "e", "b", "d", "a", "f"]
    assert queue.shed == []


def test_where_too_many_wait_the_youngest_of_the_lowest_priority_is_shed() -> None:
    queue = Queue(most_waiting=3)
    for name, priority in (("a", LOW), ("b", NORMAL), ("c", LOW)):
        queue.put(name, priority)
    queue.put("d", LOW)
    assert queue.shed == ["d"], "itself, where none matters less"
    queue.put("e", HIGH)
    queue.put("f", NORMAL)
    queue.put("g", NORMAL)
    assert queue.shed == ["d", "c", "a", "g"]
    queue.workers.most_waiting += 1  # for the last job, which tells that all are done
    assert queue.finish() == ["e", "b", "f"]


async def test_call_that_finds_no_thread_and_too_many_before_it_is_refused_at_once(stage: Stage) -> None:
    deaf, shape = Deaf(), Shape.UNARY_UNARY
    guard = await serve(stage, {"Deaf": (shape, deaf), "Echo": (shape, echo)}, workers=1, max_s=20)
    guard.workers.most_waiting = 1
    running = asyncio.create_task(call(stage.channel(), shape, "Deaf"))
    await asyncio.to_thread(deaf.ran.acquire, timeout=10)
    waiting = asyncio.create_task(call(stage.channel(), shape))
    async with asyncio.timeout(10):
        while guard.workers.waiting < 1:  # noqa: ASYNC110 - a thread counts
            await asyncio.sleep(0.01)
    with pytest.raises(AioRpcError) as refused:
        await call(stage.channel(), shape, within=5)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert info(refused.value).reason == "OVERLOADED"
    assert 250 <= int(dict(refused.value.trailing_metadata() or ())[PUSHBACK_KEY]) <= 750
    deaf.let_go.set()
    assert await running == [b"too late"]
    assert await waiting == [b"hello"]
