"""Streams read on where they were cut, and only then."""

from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from hauberk.resuming import resume


def failed(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="cut")


class Counter:
    """Counts up from the token, and is cut after each of `lengths` messages; then goes on to `end`."""

    def __init__(self, *lengths: int, end: int, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self._lengths: Iterator[int] = iter(lengths)
        self._end = end
        self._code = code
        self.opened: list[int | None] = []
        self.cancelled = 0

    def open(self, token: int | None) -> "Counted":
        self.opened.append(token)
        return Counted(self, 0 if token is None else token, next(self._lengths, None), self._end, self._code)


class Counted:
    def __init__(
        self, counter: Counter, start: int, length: int | None, end: int, code: grpc.StatusCode
    ) -> None:
        self._counter, self._start, self._length, self._end, self._code = counter, start, length, end, code

    async def __aiter__(self) -> AsyncIterator[int]:
        for number in range(self._start + 1, self._end + 1):
            if self._length is not None and number - self._start > self._length:
                raise failed(self._code)
            yield number

    def cancel(self) -> None:
        self._counter.cancelled += 1


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hauberk.resuming.FIRST_PAUSE_S", 0.0)


async def test_nothing_is_lost_and_nothing_comes_twice() -> None:
    counter = Counter(3, 0, 2, end=9)
    assert [number async for number in resume(counter.open, lambda number: number)] == list(range(1, 10))
    assert counter.opened == [None, 3, 3, 5]


async def test_a_stream_that_was_never_cut_is_opened_once() -> None:
    counter = Counter(end=2)
    assert [number async for number in resume(counter.open, lambda number: number)] == [1, 2]
    assert counter.opened == [None]


async def test_attempts_in_a_row_are_bounded() -> None:
    counter = Counter(1, *[0] * 10, end=9)
    with pytest.raises(grpc.aio.AioRpcError, match="cut"):
        _ = [number async for number in resume(counter.open, lambda number: number, attempts=4)]
    assert counter.opened == [None, 1, 1, 1, 1]


async def test_a_message_makes_the_attempts_count_anew() -> None:
    counter = Counter(*[1] * 20, end=21)
    assert len([number async for number in resume(counter.open, lambda number: number, attempts=2)]) == 21


@pytest.mark.parametrize(
    "code",
    [code for code in grpc.StatusCode if code not in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)],
)
async def test_every_other_status_is_raised_at_once(code: grpc.StatusCode) -> None:
    counter = Counter(1, end=9, code=code)
    reading = resume(counter.open, lambda number: number)
    assert await anext(reading) == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(reading)
    assert caught.value.code() is code
    assert counter.opened == [None]


async def test_a_reader_that_leaves_cancels_the_call() -> None:
    counter = Counter(end=9)
    reading = resume(counter.open, lambda number: number)
    assert await anext(reading) == 1
    await reading.aclose()
    assert counter.cancelled == 1
