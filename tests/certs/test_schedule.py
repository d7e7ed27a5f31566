"""Promises of Schedule: no connection outlives the certificate it was made with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hauberk.certs.errors import ScheduleError
from hauberk.certs.rotation import Schedule


@given(st.floats(min_value=7.7, max_value=1e7))
def test_every_connection_ends_before_the_certificate_it_was_made_with(lifetime: float) -> None:
    schedule = Schedule.of(lifetime)
    last_use = 0.55 * lifetime + schedule.watcher_refresh + 1.1 * schedule.max_connection_age + schedule.grace
    assert last_use < lifetime
    assert 1 <= schedule.watcher_refresh <= 10
    assert schedule.grace <= 30


@pytest.mark.parametrize("lifetime", [7.6, 1, 0, -3600, float("nan")])
def test_life_too_short_to_rotate_stops_the_start(lifetime: float) -> None:
    with pytest.raises(ScheduleError):
        Schedule.of(lifetime)


def test_settings_that_break_the_schedule_stop_the_start() -> None:
    """Half a lifetime of connection age was computed to be too long."""
    with pytest.raises(ScheduleError, match="ends before its connections do"):
        Schedule(lifetime=3600, max_connection_age=1800, grace=30, watcher_refresh=10)


def test_schedule_of_the_default_life() -> None:
    assert Schedule.of(3600) == Schedule(
        lifetime=3600, max_connection_age=720, grace=30, watcher_refresh=10, announcement_grace=3
    )
