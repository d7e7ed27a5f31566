"""What a quota lets through, by a clock that is set by hand, and what is kept of those who call."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hauberk.interceptors.buckets import SHARED
from hauberk.interceptors.call import Call
from hauberk.interceptors.demands import QuotaKey, QuotaRule, TokenRule
from hauberk.interceptors.errors import QuotaSpent
from hauberk.interceptors.policy import Policy, callers
from hauberk.interceptors.quota import Quotas
from hauberk.interceptors.tracing import TraceContext

METHOD = "/lab.v1.Lab/Echo"


class Scene:
    """One method with these rules, and a clock."""

    def __init__(self, *rules: QuotaRule, most_keys: int = 1000) -> None:
        self.now = 1_000_000.0
        self.quotas = Quotas(most_keys, clock=lambda: self.now)
        self.policy = Policy(method=METHOD, callers=callers("*"), token=TokenRule(), quotas=rules)
        check, charge = self.quotas.check(self.policy, None)
        assert check is not None
        assert charge is None
        self._check = check

    def admits(self, caller: str = "10.0.0.1", **brought: Any) -> bool:
        """Whether a call of this caller, without a certificate and so by its address, is let in now."""
        return self.wait(caller, **brought) is None

    def wait(self, caller: str = "10.0.0.1", *, tenant: str = "", token: Any = None) -> float | None:
        call = Call(
            method=METHOD,
            policy=self.policy,
            metadata=(("x-tenant", tenant),),
            trace=TraceContext.new(),
            started=self.now,
            time_left_s=None,
            auth_context={},
            address=f"ipv4:{caller}:50000",
        )
        call.token = token
        try:
            self._check(call)
        except QuotaSpent as spent:
            return spent.retry_after_s
        return None


def rule(limit: int, per_s: float, burst: int = 1, **more: Any) -> QuotaRule:
    return QuotaRule(limit=limit, per_s=per_s, burst=burst, **more)


@given(
    limit=st.integers(1, 1000),
    per_s=st.floats(0.01, 86400),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 3), max_size=200),
)
def test_no_span_of_time_holds_more_than_the_burst_and_the_limit(
    limit: int, per_s: float, burst: int, pauses: list[float]
) -> None:
    scene, admitted = Scene(rule(limit, per_s, burst)), []
    for pause in pauses:
        scene.now += pause * per_s / limit
        if scene.admits():
            admitted.append(scene.now)
    for first, begin in enumerate(admitted):
        for count, end in enumerate(admitted[first:], 1):
            assert count <= burst + (end - begin) * limit / per_s + 0.01


@given(limit=st.integers(1, 1000), per_s=st.floats(0.01, 86400), burst=st.integers(1, 50))
def test_refused_call_is_let_in_after_exactly_the_wait_it_was_told(
    limit: int, per_s: float, burst: int
) -> None:
    scene = Scene(rule(limit, per_s, burst))
    assert [scene.admits() for _ in range(burst)] == [True] * burst
    wait_s = scene.wait()
    assert wait_s is not None
    began = scene.now
    scene.now = began + wait_s * 0.99
    assert not scene.admits()
    scene.now = began + wait_s + 1e-6
    assert scene.admits()
    assert not scene.admits()


def test_of_several_rules_the_longest_wait_is_told() -> None:
    scene = Scene(rule(1, 10), rule(1, 60))
    assert scene.admits()
    assert scene.wait() == pytest.approx(60, rel=0.01)
    scene.now += 11
    assert scene.wait() == pytest.approx(49, rel=0.01)
    scene.now += 50
    assert scene.admits()


@dataclass
class Token:
    issuer: str
    subject: str


def test_subjects_are_counted_by_issuer_and_whoever_calls_for_them() -> None:
    scene = Scene(rule(1, 60, key=QuotaKey.SUBJECT))
    assert scene.admits("10.0.0.1", token=Token("https://a", "jo"))
    assert not scene.admits("10.0.0.2", token=Token("https://a", "jo"))
    assert scene.admits("10.0.0.1", token=Token("https://b", "jo"))
    assert scene.admits("10.0.0.1", token=Token("https://a", "jo" * 900))


def test_key_that_has_all_back_is_forgotten_as_others_come() -> None:
    scene = Scene(rule(1, 60), most_keys=10**6)
    for caller in range(20_000):
        scene.now += 0.1  # 600 of them wait at any time
        assert scene.admits(f"10.1.{caller >> 8}.{caller & 255}")
        assert len(scene.quotas.buckets) <= 600 * 4 / 3 + 10


def test_keys_that_find_no_room_share_and_none_of_them_gets_more_than_its_limit() -> None:
    scene = Scene(rule(2, 60, 2), most_keys=500)
    names = [f"10.1.{caller >> 8}.{caller & 255}" for caller in range(1000)]
    admitted = [[scene.admits(name) for name in names] for _ in range(3)]
    counts = [sum(column) for column in zip(*admitted, strict=True)]
    assert counts[:500] == [2] * 500
    assert max(counts) == 2
    alone = 1000 * 0.5 * 0.8  # of 500 in 4096 cells, one in nine finds somebody there
    assert sum(count == 2 for count in counts[500:]) > alone
    assert len(scene.quotas.buckets) == 500


def test_key_that_finds_room_again_has_not_its_whole_burst() -> None:
    scene = Scene(rule(1, 60), rule(1000, 600, 1000), most_keys=2)
    assert scene.admits("10.0.0.1")
    assert scene.admits("10.0.0.2")  # no room left: shared
    scene.now += 30
    assert not scene.admits("10.0.0.2")
    scene.now += 31
    assert scene.admits("10.0.0.2")


def test_caller_that_invents_header_values_crowds_itself_out_and_nobody_else() -> None:
    scene = Scene(rule(1, 60, key=QuotaKey.HEADER, header="x-tenant"), most_keys=500)
    admitted = sum(scene.admits("10.0.0.1", tenant=str(number)) for number in range(5000))
    assert admitted == 501
    others = sum(scene.admits(f"10.2.0.{number}", tenant="a") for number in range(200))
    assert others >= 180
    assert len(scene.quotas.buckets) + SHARED < 5000
