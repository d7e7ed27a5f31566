"""The arithmetic of deadlines, with the clock held."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hauberk.interceptors.deadline import MARGIN_S, Deadline, admit, budget
from hauberk.interceptors.demands import DeadlineRule
from hauberk.interceptors.errors import DeadlinePassed, DeadlineRequired

NOW = 1000.0
_seconds = st.floats(min_value=0.001, max_value=1e6)


@pytest.mark.parametrize("caller_s", [0.0, -1.0, float("nan"), float("-inf")])
def test_caller_without_time_is_refused_whatever_the_rule(caller_s: float) -> None:
    for rule in (None, DeadlineRule(), DeadlineRule(required=True), DeadlineRule(default_s=1, max_s=2)):
        with pytest.raises(DeadlinePassed) as caught:
            admit(caller_s, rule, NOW)
        assert caught.value.metadata == {"bound": "caller"}


def test_required_deadline_that_is_missing_is_refused() -> None:
    with pytest.raises(DeadlineRequired):
        admit(None, DeadlineRule(required=True, max_s=3), NOW)


def test_rule_that_asks_nothing_bounds_nothing() -> None:
    assert admit(None, None, NOW) is None
    assert admit(None, DeadlineRule(), NOW) is None


@given(caller_s=st.none() | _seconds, default_s=st.none() | _seconds, max_s=st.none() | _seconds)
def test_no_call_lasts_longer_than_caller_or_contract_say(
    caller_s: float | None, default_s: float | None, max_s: float | None
) -> None:
    assume(default_s is None or max_s is None or default_s <= max_s)  # no contract may say otherwise
    admitted = admit(caller_s, DeadlineRule(default_s=default_s, max_s=max_s), NOW)
    if caller_s is None and default_s is None and max_s is None:
        assert admitted is None
        return
    assert admitted is not None
    for limit in (caller_s, max_s):
        assert limit is None or admitted.at <= NOW + limit
    assert admitted.at > NOW


@given(own_s=st.none() | _seconds, left_s=st.none() | _seconds)
def test_budget_is_the_sooner_and_keeps_the_margin(own_s: float | None, left_s: float | None) -> None:
    inherited = None if left_s is None else Deadline(NOW + left_s, "caller")
    if left_s is not None and NOW + left_s - NOW <= MARGIN_S:
        with pytest.raises(DeadlinePassed):
            budget(own_s, inherited, NOW)
        return
    found = budget(own_s, inherited, NOW)
    if own_s is None and left_s is None:
        assert found is None
        return
    assert found is not None
    assert found > 0
    assert own_s is None or found <= own_s
    assert left_s is None or found <= left_s


@pytest.mark.parametrize("own_s", [0.0, -0.1, float("nan")])
def test_own_timeout_of_nothing_is_refused(own_s: float) -> None:
    with pytest.raises(DeadlinePassed) as caught:
        budget(own_s, None, NOW)
    assert caught.value.metadata == {"bound": "own timeout"}


def test_spent_budget_names_whose_bound_it_was() -> None:
    with pytest.raises(DeadlinePassed) as caught:
        budget(5, Deadline(NOW - 1, "contract max"), NOW)
    assert caught.value.metadata == {"bound": "contract max"}
