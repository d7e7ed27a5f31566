"""Changes are gathered for a moment; what is unchanged is not published."""

import logging
from collections.abc import Callable

import pytest

from hauberk.services.control.publish import Publisher
from tests.control.xds_mesh import contract, snapshot, spiffe, workload

HERE, THERE = "127.0.0.1:1001", "127.0.0.1:1002"


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """Moved by hand, in milliseconds."""

    def __init__(self) -> None:
        self._now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Timer:
        self.timers.append(Timer(self._now + delay, callback))
        return self.timers[-1]

    def advance(self, ms: int) -> None:
        self._now += ms / 1000
        for timer in list(self.timers):
            if timer.at <= self._now + 1e-9:
                self.timers.remove(timer)
                if not timer.cancelled:
                    timer.callback()


class Mesh:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.publisher = Publisher(snapshot(), clock=self.clock)
        self.published: list[list[str]] = []
        self.publisher.snapshots.subscribe(lambda new: self.published.append(list(new.workloads)))

    def change(self, *names: str) -> None:
        self.publisher.update([workload(name) for name in names], ())


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


def test_a_lone_change_is_published_after_75_ms(mesh: Mesh) -> None:
    mesh.change("orders")
    mesh.clock.advance(74)
    assert mesh.published == []
    mesh.clock.advance(1)
    assert mesh.published == [["orders"]]


def test_changes_close_together_are_one(mesh: Mesh) -> None:
    for names in (["a"], ["a", "b"], ["a", "b", "c"]):
        mesh.change(*names)
        mesh.clock.advance(20)
    mesh.clock.advance(75)
    assert mesh.published == [["a", "b", "c"]]


def test_changes_without_a_pause_are_published_after_150_ms(mesh: Mesh) -> None:
    for number in range(8):
        mesh.change(f"w{number}")
        mesh.clock.advance(20)
    assert mesh.published == [["w7"]]


def test_the_next_change_begins_a_wait_of_its_own(mesh: Mesh) -> None:
    mesh.change("a")
    mesh.clock.advance(75)
    mesh.change("b")
    mesh.clock.advance(74)
    assert mesh.published == [["a"]]
    mesh.clock.advance(1)
    assert mesh.published == [["a"], ["b"]]


def test_unchanged_content_is_not_published(mesh: Mesh) -> None:
    mesh.change("orders")
    mesh.clock.advance(75)
    mesh.change("orders")
    mesh.clock.advance(75)
    assert mesh.published == [["orders"]]
    assert mesh.publisher.snapshots.version == 2


def test_what_changed_and_changed_back_is_not_published(mesh: Mesh) -> None:
    mesh.change("orders")
    mesh.change()
    mesh.clock.advance(150)
    assert mesh.published == []


def test_a_flush_does_not_wait_and_leaves_nothing_behind(mesh: Mesh) -> None:
    mesh.publisher.update([workload("orders"), workload("payments")], {str(spiffe("payments"))})
    mesh.publisher.flush()
    assert mesh.published == [["orders"]]
    mesh.clock.advance(150)
    mesh.publisher.flush()
    assert mesh.published == [["orders"]]


def test_what_cannot_be_published_leaves_the_last_good_and_is_logged(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.change("orders")
    mesh.clock.advance(75)
    mesh.change("orders", "orders")
    mesh.clock.advance(75)
    assert mesh.published == [["orders"]]
    assert "callers keep what they have" in caplog.text
    mesh.change("payments")
    mesh.clock.advance(75)
    assert mesh.published == [["orders"], ["payments"]]


def test_a_contract_that_becomes_contested_is_logged_once(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    service = contract("shop.Orders", Get=["gateway"])
    for at in ([HERE], [THERE]):
        mesh.publisher.update([workload("orders", service, at=at), workload("thief", service)], ())
        mesh.publisher.flush()
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == ["several workloads offer shop.Orders: calls must name one of them"]


async def test_without_a_clock_given_it_lives_by_the_event_loop() -> None:
    publisher = Publisher(snapshot())
    publisher.update([workload("orders")], ())
    assert publisher.snapshots.version == 1
    await publisher.snapshots.next(1)
    assert list(publisher.snapshots.value.workloads) == ["orders"]
