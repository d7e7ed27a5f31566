"""Promises of certs/watch.py: nobody misses the latest value, and nobody who has left is remembered."""

import asyncio
import logging
import threading

import pytest

from hauberk.certs.watch import Watch


async def started(task: asyncio.Task[int]) -> None:
    """Let `task` run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()


def test_value_and_version_change_together() -> None:
    watch = Watch("one")
    assert (watch.value, watch.version) == ("one", 1)
    watch.set("two")
    assert watch.versioned == (2, "two")


async def test_next_waits_for_a_later_version() -> None:
    watch = Watch("one")
    task = asyncio.create_task(watch.next(watch.version))
    await started(task)
    watch.set("two")
    assert await task == 2


async def test_next_returns_at_once_for_what_was_missed() -> None:
    watch = Watch("one")
    watch.set("two")
    assert await watch.next(1) == 2


async def test_every_waiter_is_woken() -> None:
    watch = Watch(0)
    tasks = [asyncio.create_task(watch.next(1)) for _ in range(10)]
    await started(tasks[0])
    watch.set(1)
    assert await asyncio.gather(*tasks) == [2] * 10


async def test_value_set_in_another_thread_wakes_this_loop() -> None:
    watch = Watch("one")
    task = asyncio.create_task(watch.next(1))
    await started(task)
    thread = threading.Thread(target=watch.set, args=("two",))
    thread.start()
    assert await asyncio.wait_for(task, 5) == 2
    thread.join()


async def test_sets_from_many_threads_are_all_counted() -> None:
    watch = Watch(0)

    def set_often() -> None:
        for number in range(500):
            watch.set(number)

    threads = [threading.Thread(target=set_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    seen = watch.version
    while seen < 2001:
        seen = await asyncio.wait_for(watch.next(seen), 5)
    assert watch.version == 2001


async def test_cancelled_waiter_is_forgotten() -> None:
    watch = Watch(0)
    task = asyncio.create_task(watch.next(1))
    await started(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert watch._waiters == {}


def test_waiter_whose_loop_is_closed_hinders_nobody() -> None:
    watch = Watch(0)
    loop = asyncio.new_event_loop()
    waiting = watch.next(1)
    task = loop.create_task(waiting)
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    loop.close()
    watch.set(1)
    assert watch.value == 1
    waiting.close()


async def test_changes_begin_with_the_present_value_and_skip_what_a_slow_reader_missed() -> None:
    watch = Watch("one")
    changes = watch.changes()
    assert await anext(changes) == "one"
    watch.set("two")
    watch.set("three")
    assert await anext(changes) == "three"
    await changes.aclose()


def test_subscriber_is_called_until_it_unsubscribes() -> None:
    watch, seen = Watch(0), list[int]()
    unsubscribe = watch.subscribe(seen.append)
    watch.set(1)
    unsubscribe()
    unsubscribe()
    watch.set(2)
    assert seen == [1]


def test_one_callback_may_subscribe_twice() -> None:
    watch, seen = Watch(0), list[int]()
    first = watch.subscribe(seen.append)
    watch.subscribe(seen.append)
    first()
    watch.set(1)
    assert seen == [1]


def test_subscriber_that_raises_is_logged_and_hinders_nobody(caplog: pytest.LogCaptureFixture) -> None:
    watch, seen = Watch(0), list[int]()

    def broken(_: int) -> None:
        raise ValueError("broken")

    watch.subscribe(broken)
    watch.subscribe(seen.append)
    with caplog.at_level(logging.ERROR):
        watch.set(1)
    assert seen == [1]
    assert "subscriber" in caplog.text
