"""When credentials are replaced, and the loop that does it.

`Schedule` decides for connections, `rotate_at` for the SVID; both are pure. `keep_fresh` sleeps and acts.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from hauberk.certs.clock import utc_now
from hauberk.certs.credentials import Credentials
from hauberk.certs.errors import ScheduleError, SvidError, SvidExpired
from hauberk.certs.svid import Svid
from hauberk.certs.watch import Watch

EARLIEST, LATEST = 0.45, 0.55
"""The part of its life after which an SVID is replaced; jitter picks between, so a fleet is spread out."""
LONGEST_NAP = timedelta(seconds=1)
"""No single sleep is longer, so that a suspended machine or a clock that was set is noticed."""
FIRST_BACKOFF_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Time limits, all in seconds, that let no connection outlive the certificate it was made with.

    gRPC ends no connection because its certificate ended, so connections must end by age. For a life of L:
    the new SVID is written at 0.55 L at the latest; a file watcher sees it `watcher_refresh` later; a
    connection made just before that still uses the old one and lives `max_connection_age`, to which core
    adds up to a tenth, and then its streams have `grace` to finish. So the old SVID is last used at

        0.55 L + watcher_refresh + 1.1 max_connection_age + grace

    With max_connection_age = L/5 and grace = min(30, L/10) that is at most 0.87 L + watcher_refresh, and
    watcher_refresh = L/20, but at least 1 and at most 10: under L for every L above 1 / 0.13, about 7.7 s.
    """

    lifetime: float
    max_connection_age: float
    grace: float
    watcher_refresh: float
    announcement_grace: float = 3.0
    """How long an announcement outlives its stream: the next stream opens within, and no endpoint changes."""

    def __post_init__(self) -> None:
        if not self.last_use < self.lifetime:  # so that NaN is refused too
            raise ScheduleError(
                f"a lifetime of {self.lifetime:g} s ends before its connections do, after {self.last_use:g} s"
            )

    @classmethod
    def of(cls, lifetime: float) -> Self:
        """The schedule for SVIDs that live `lifetime` seconds. Raises ScheduleError if that is too short."""
        return cls(
            lifetime=lifetime,
            max_connection_age=lifetime / 5,
            grace=min(30.0, lifetime / 10),
            watcher_refresh=min(max(1.0, lifetime / 20), 10.0),
        )

    @property
    def last_use(self) -> float:
        """Seconds after its making at which an SVID's last connection has ended."""
        return LATEST * self.lifetime + self.watcher_refresh + 1.1 * self.max_connection_age + self.grace


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """The SVID was replaced by `svid`."""

    svid: Svid


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalFailed:
    """A renewal failed; the next try is in `retry_in`, and what we have lives for `left`."""

    error: Exception
    retry_in: timedelta
    left: timedelta


def rotate_at(svid: Svid, *, jitter: float) -> datetime:
    """When to replace `svid`: after 0.45 to 0.55 of its life as `jitter` goes from 0 to 1."""
    return svid.issued_at + svid.lifetime * (EARLIEST + (LATEST - EARLIEST) * jitter)


def _ignore(event: Rotated | RenewalFailed) -> None:
    return None


async def keep_fresh(
    watch: Watch[Credentials],
    renew: Callable[[], Awaitable[Credentials]],
    *,
    clock: Callable[[], datetime] = utc_now,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    on_event: Callable[[Rotated | RenewalFailed], None] = _ignore,
    jitter: Callable[[], float] = random.random,
) -> None:
    """Replace the credentials in `watch` at half their life, for ever. Runs until cancelled.

    `renew` makes the next ones; when it fails it is tried again, from 1 s apart to a tenth of a life, and
    `on_event` is told how long is left. `clock` is aware UTC, `sleep` takes seconds, `jitter` gives 0 to 1.
    Raises SvidExpired once there is nothing fresh left, and SvidNotYetValid when the clock was set back to
    before the SVID's time: the process must stop serving.
    """
    earliest = watch.value.svid.issued_at
    while True:
        await _sleep_until_due(watch, earliest, jitter(), clock, sleep)
        fresh = await _renewed(watch, renew, clock, sleep, on_event, jitter)
        if fresh is not None:
            watch.set(fresh)
            on_event(Rotated(svid=fresh.svid))
            # An authority whose clock is behind gives what looks half spent: come again soon, not at once.
            earliest = clock() + fresh.svid.remaining(clock()) / 10


async def _sleep_until_due(
    watch: Watch[Credentials],
    earliest: datetime,
    jitter: float,
    clock: Callable[[], datetime],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Asks clock and watch again after each nap: somebody else may have set fresher credentials."""
    while True:
        now, svid = clock(), watch.value.svid
        _check_use(svid, now)
        left = max(rotate_at(svid, jitter=jitter), earliest) - now
        if left <= timedelta(0):
            return
        await sleep(min(left, LONGEST_NAP).total_seconds())


async def _renewed(
    watch: Watch[Credentials],
    renew: Callable[[], Awaitable[Credentials]],
    clock: Callable[[], datetime],
    sleep: Callable[[float], Awaitable[None]],
    on_event: Callable[[Rotated | RenewalFailed], None],
    jitter: Callable[[], float],
) -> Credentials | None:
    """The next credentials, or None if somebody else has set some meanwhile."""
    version, held = watch.versioned
    longest = max(FIRST_BACKOFF_S, held.svid.lifetime.total_seconds() / 10)
    backoff = FIRST_BACKOFF_S
    while watch.version == version:
        _check_use(held.svid, clock())
        try:
            async with asyncio.timeout(longest):
                fresh = await renew()
            _check_fresh(fresh, held, clock())
            return fresh
        except Exception as error:
            pause = min(backoff, longest) * (0.5 + jitter() / 2)
            backoff = min(backoff * 2, longest)
            left = held.svid.remaining(clock())
            pause = max(0.0, min(pause, left.total_seconds()))
            on_event(RenewalFailed(error=error, retry_in=timedelta(seconds=pause), left=left))
            while pause > 0 and watch.version == version:
                _check_use(held.svid, clock())
                nap = min(pause, LONGEST_NAP.total_seconds())
                pause -= nap
                await sleep(nap)
    return None


def _check_use(svid: Svid, now: datetime) -> None:
    """Raises SvidExpired or SvidNotYetValid once it is of no use to us."""
    if svid.remaining(now) <= timedelta(0):
        raise SvidExpired(f"svid of {svid.spiffe_id} expired before it could be renewed")
    svid.check_dates(now)


def _check_fresh(fresh: Credentials, held: Credentials, now: datetime) -> None:
    """What came must be us, alive, and made after what we have; else keeping the old is better."""
    if fresh.svid.spiffe_id != held.svid.spiffe_id:
        raise SvidError(f"renewal names somebody else: {fresh.svid.spiffe_id}")
    fresh.svid.check_dates(now)
    if fresh.svid.leaf == held.svid.leaf or fresh.svid.issued_at < held.svid.issued_at:
        raise SvidError(f"renewal is no newer than what we have: made at {fresh.svid.issued_at.isoformat()}")
