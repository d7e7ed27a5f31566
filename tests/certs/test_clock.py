"""A wall clock that somebody sets, told from one that time moves."""

import logging
from datetime import timedelta

import pytest

from hauberk.certs.clock import SetClock, tell_of_clock
from tests.certs.forge import NOW

HOURS = timedelta(hours=5)


class Both:
    """A wall clock and a steady one."""

    def __init__(self) -> None:
        self.steady, self.set = 1000.0, timedelta(0)
        self.clock = SetClock(
            lambda: NOW + timedelta(seconds=self.steady) + self.set, steady=lambda: self.steady
        )

    def after(self, seconds: float, *, set_by: timedelta = timedelta(0)) -> bool:
        self.steady += seconds
        self.set += set_by
        return self.clock.look()


@pytest.mark.parametrize(("by", "way"), [(HOURS, "forward"), (-HOURS, "back")])
def test_a_jump_is_noticed_once_and_named(by: timedelta, way: str) -> None:
    both = Both()
    assert both.after(1, set_by=by)
    assert not both.after(1)
    assert str(both.clock) == f"this machine's clock was set {way} by 5 h"
    assert both.clock.since_set() == 1


def test_a_clock_set_back_to_where_it_was_is_right_again() -> None:
    both = Both()
    both.after(1, set_by=HOURS)
    assert both.after(20, set_by=-HOURS)
    assert str(both.clock) == ""
    assert both.clock.since_set() is None


def test_what_time_and_a_careful_daemon_do_is_no_jump() -> None:
    both = Both()
    assert not both.after(5 * 3600)
    assert not any(both.after(1, set_by=timedelta(milliseconds=1)) for _ in range(10_000))
    assert str(both.clock) == ""


def test_it_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    both = Both()
    both.after(1, set_by=-HOURS)
    tell_of_clock(logging.getLogger("tests.clock"), both.clock)
    both.after(1, set_by=HOURS)
    tell_of_clock(logging.getLogger("tests.clock"), both.clock)
    began, ended = caplog.messages
    assert began.startswith("this machine's clock was set back by 5 h: certificates")
    assert "not valid yet" in began
    assert ended == "this machine's clock was set back to where it was"
