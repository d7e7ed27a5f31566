"""Promises of keep_fresh, with a clock that is moved and never waited for."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from hauberk.certs.authority import Authority
from hauberk.certs.credentials import Credentials
from hauberk.certs.errors import SvidError, SvidExpired, SvidNotYetValid
from hauberk.certs.identity import SpiffeId
from hauberk.certs.rotation import LONGEST_NAP, RenewalFailed, Rotated, keep_fresh, rotate_at
from hauberk.certs.watch import Watch
from tests.certs.forge import HOUR, NOW

SECOND = timedelta(seconds=1)
ORDERS = SpiffeId.of("mesh.test", "orders")


class Time:
    """A clock that moves when somebody sleeps, and what was to be done meanwhile."""

    def __init__(self) -> None:
        self.now = NOW
        self.naps: list[float] = []
        self.at: list[tuple[datetime, Callable[[], None]]] = []

    def clock(self) -> datetime:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.naps.append(seconds)
        self.now += timedelta(seconds=seconds)
        for due in [entry for entry in self.at if entry[0] <= self.now]:
            self.at.remove(due)
            due[1]()
        await asyncio.sleep(0)


class Issuer:
    """Renews from a real authority; fails when told to; ends the test when enough were made."""

    def __init__(self, folder: Path, time: Time, *, enough: int) -> None:
        self.authority = Authority.create(folder, "mesh.test", now=NOW)
        self.time = time
        self.enough = enough
        self.failures: list[Exception] = []
        self.asked: list[datetime] = []

    def issue(self, name: SpiffeId = ORDERS, lifetime: timedelta = HOUR) -> Credentials:
        svid = self.authority.issue(name, lifetime=lifetime, now=self.time.now)
        return Credentials(svid, self.authority.bundle)

    async def renew(self) -> Credentials:
        if self.enough == 0:
            raise asyncio.CancelledError
        self.asked.append(self.time.now)
        if self.failures:
            raise self.failures.pop(0)
        self.enough -= 1
        return self.issue()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def make(tmp_path: Path, time: Time) -> Callable[[int], tuple[Issuer, Watch[Credentials]]]:
    def issuer_and_watch(enough: int) -> tuple[Issuer, Watch[Credentials]]:
        issuer = Issuer(tmp_path / "ca", time, enough=enough)
        return issuer, Watch(issuer.issue())

    return issuer_and_watch


Made = Callable[[int], tuple[Issuer, Watch[Credentials]]]
Events = list[Rotated | RenewalFailed]


async def run(
    issuer: Issuer, watch: Watch[Credentials], time: Time, jitter: Callable[[], float] = lambda: 0.5
) -> Events:
    events: Events = []
    with pytest.raises(asyncio.CancelledError):
        await keep_fresh(
            watch, issuer.renew, clock=time.clock, sleep=time.sleep, on_event=events.append, jitter=jitter
        )
    return events


@pytest.mark.parametrize(("jitter", "part"), [(0.0, 0.45), (0.5, 0.5), (1.0, 0.55)])
def test_svid_is_replaced_around_half_its_life(make: Made, jitter: float, part: float) -> None:
    svid = make(0)[1].value.svid
    assert abs(rotate_at(svid, jitter=jitter) - (NOW + HOUR * part)) < SECOND / 1000


async def test_three_rotations_each_with_a_key_of_its_own(make: Made, time: Time) -> None:
    issuer, watch = make(3)
    keys = [watch.value.svid.key_pem]
    watch.subscribe(lambda credentials: keys.append(credentials.svid.key_pem))
    events = await run(issuer, watch, time)
    assert issuer.asked == [NOW + HOUR / 2 * n for n in (1, 2, 3)]
    assert len(set(keys)) == 4
    assert [type(event) for event in events] == [Rotated] * 3
    assert isinstance(events[-1], Rotated)
    assert events[-1].svid == watch.value.svid


async def test_jitter_is_drawn_once_for_each_svid(make: Made, time: Time) -> None:
    issuer, watch = make(2)
    draws = iter([0.0, 1.0, 0.5])
    await run(issuer, watch, time, lambda: next(draws))
    first = NOW + HOUR * 0.45
    assert abs(issuer.asked[0] - first) < SECOND
    assert abs(issuer.asked[1] - (first + HOUR * 0.55)) < 2 * SECOND


async def test_no_nap_is_so_long_that_a_moved_clock_goes_unnoticed(make: Made, time: Time) -> None:
    issuer, watch = make(1)
    await run(issuer, watch, time)
    assert max(time.naps) <= LONGEST_NAP.total_seconds()


async def test_suspended_machine_renews_as_soon_as_it_wakes(make: Made, time: Time) -> None:
    issuer, watch = make(1)

    def suspend() -> None:
        time.now += timedelta(minutes=50)

    time.at.append((NOW + SECOND, suspend))
    await run(issuer, watch, time)
    assert issuer.asked[0] <= NOW + timedelta(minutes=51)


@pytest.mark.parametrize(("hours", "error"), [(5, SvidExpired), (-5, SvidNotYetValid)])
async def test_a_clock_that_is_set_while_it_sleeps_is_the_end_within_a_nap(
    make: Made, time: Time, hours: int, error: type[SvidError]
) -> None:
    issuer, watch = make(1)

    def set_clock() -> None:
        time.now += HOUR * hours

    time.at.append((NOW + SECOND * 30, set_clock))
    with pytest.raises(error):
        await keep_fresh(watch, issuer.renew, clock=time.clock, sleep=time.sleep)
    assert sum(time.naps) <= 30 + LONGEST_NAP.total_seconds()
    assert not issuer.asked


async def test_failure_backs_off_says_how_long_is_left_and_recovers(make: Made, time: Time) -> None:
    issuer, watch = make(1)
    issuer.failures = [OSError("no route"), OSError("no route"), SvidError("bad"), OSError("no route")]
    events = await run(issuer, watch, time, lambda: 1.0)
    failed = [event for event in events if isinstance(event, RenewalFailed)]
    assert [event.retry_in for event in failed] == [SECOND * n for n in (1, 2, 4, 8)]
    due = NOW + HOUR * 0.55
    assert abs(failed[0].left - (NOW + HOUR - due)) < SECOND
    assert failed[-1].left < failed[0].left
    assert isinstance(events[-1], Rotated)


async def test_back_off_has_jitter_and_never_exceeds_a_tenth_of_the_life(make: Made, time: Time) -> None:
    issuer, watch = make(1)
    issuer.failures = [OSError("down")] * 12
    events = await run(issuer, watch, time, lambda: 0.0)
    pauses = [event.retry_in for event in events if isinstance(event, RenewalFailed)]
    assert pauses[:3] == [SECOND / 2, SECOND, SECOND * 2], "half of it is drawn"
    assert max(pauses) == HOUR / 10 / 2


async def test_expired_is_the_end(make: Made, time: Time) -> None:
    issuer, watch = make(1)
    issuer.failures = [OSError("down")] * 1000
    events: Events = []
    with pytest.raises(SvidExpired, match="orders expired before it could be renewed"):
        await keep_fresh(watch, issuer.renew, clock=time.clock, sleep=time.sleep, on_event=events.append)
    assert time.now == watch.value.svid.expires_at
    assert isinstance(events[-1], RenewalFailed)
    assert events[-1].left >= events[-1].retry_in


async def test_what_is_expired_already_is_not_renewed(make: Made, time: Time) -> None:
    issuer, watch = make(1)
    time.now += 2 * HOUR
    with pytest.raises(SvidExpired):
        await keep_fresh(watch, issuer.renew, clock=time.clock, sleep=time.sleep)
    assert issuer.asked == []


def bad_renewals(issuer: Issuer, held: Credentials) -> dict[str, Credentials]:
    def made(at: datetime, lifetime: timedelta = HOUR) -> Credentials:
        before, issuer.time.now = issuer.time.now, at
        try:
            return issuer.issue(lifetime=lifetime)
        finally:
            issuer.time.now = before

    return {
        "somebody else's": issuer.issue(SpiffeId.of("mesh.test", "payments")),
        "the same again": held,
        "older": made(NOW),
        "expired": made(NOW + 2 * SECOND, lifetime=SECOND),
        "of the future": made(NOW + 9 * HOUR),
    }


@pytest.mark.parametrize("kind", ["somebody else's", "the same again", "older", "expired", "of the future"])
async def test_renewal_that_is_no_better_is_a_failure(make: Made, time: Time, kind: str) -> None:
    issuer, watch = make(1)
    time.now += SECOND
    watch.set(issuer.issue())
    answers = [bad_renewals(issuer, watch.value)[kind]]

    async def renew() -> Credentials:
        return answers.pop() if answers else await issuer.renew()

    events: Events = []
    with pytest.raises(asyncio.CancelledError):
        await keep_fresh(watch, renew, clock=time.clock, sleep=time.sleep, on_event=events.append)
    assert isinstance(events[0], RenewalFailed)
    assert isinstance(events[0].error, SvidError)
    assert isinstance(events[1], Rotated)
    assert watch.value.svid.spiffe_id == ORDERS


async def test_shorter_life_is_taken_as_it_comes(make: Made, time: Time) -> None:
    """Operators shorten lives when something has happened."""
    issuer, watch = make(1)

    async def renew() -> Credentials:
        if issuer.asked:
            return await issuer.renew()
        issuer.asked.append(time.now)
        return issuer.issue(lifetime=SECOND * 60)

    events: Events = []
    with pytest.raises(asyncio.CancelledError):
        await keep_fresh(watch, renew, clock=time.clock, sleep=time.sleep, on_event=events.append)
    assert [type(event) for event in events] == [Rotated, Rotated]
    assert issuer.asked[1] - issuer.asked[0] < SECOND * 34


async def test_authority_whose_clock_is_behind_is_asked_often_but_not_without_end(
    make: Made, time: Time
) -> None:
    issuer, watch = make(20)
    behind = HOUR * 3 / 4
    time.now += behind

    async def renew() -> Credentials:
        time.now -= behind
        try:
            return await issuer.renew()
        finally:
            time.now += behind

    events: Events = []
    with pytest.raises(asyncio.CancelledError):
        await keep_fresh(watch, renew, clock=time.clock, sleep=time.sleep, on_event=events.append)
    assert [type(event) for event in events] == [Rotated] * 20
    assert min(later - earlier for earlier, later in pairwise(issuer.asked)) > SECOND * 60


async def test_renewal_that_hangs_is_given_up_and_tried_again(tmp_path: Path, time: Time) -> None:
    issuer = Issuer(tmp_path / "ca", time, enough=1)
    watch = Watch(issuer.issue(lifetime=SECOND * 1))
    hung = asyncio.Event()

    async def renew() -> Credentials:
        if not hung.is_set():
            hung.set()
            await asyncio.Event().wait()
        return await issuer.renew()

    events: Events = []
    with pytest.raises(asyncio.CancelledError):
        await keep_fresh(
            watch, renew, clock=time.clock, sleep=time.sleep, on_event=events.append, jitter=lambda: 0.0
        )
    assert isinstance(events[0], RenewalFailed)
    assert isinstance(events[0].error, TimeoutError)
    assert isinstance(events[1], Rotated)


async def test_credentials_set_by_somebody_else_put_the_rotation_off(make: Made, time: Time) -> None:
    issuer, watch = make(1)
    time.at.append((NOW + HOUR / 4, lambda: watch.set(issuer.issue())))
    await run(issuer, watch, time)
    assert issuer.asked[0] >= NOW + HOUR / 4 + HOUR / 2 - SECOND


async def test_credentials_set_by_somebody_else_end_the_retries(make: Made, time: Time) -> None:
    """Processes of one workload share a store: one rotates, the others read it."""
    issuer, watch = make(1)
    issuer.failures = [OSError("down")] * 3
    time.at.append((NOW + HOUR / 2 + SECOND, lambda: watch.set(issuer.issue())))
    events = await run(issuer, watch, time)
    assert len([event for event in events if isinstance(event, RenewalFailed)]) < 4
    assert issuer.asked[-1] >= NOW + HOUR
    assert isinstance(events[-1], Rotated)


async def test_cancelling_ends_it_at_once(make: Made, time: Time) -> None:
    issuer, watch = make(1)
    task = asyncio.create_task(keep_fresh(watch, issuer.renew, clock=time.clock))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert issuer.asked == []
