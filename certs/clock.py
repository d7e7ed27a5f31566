"""Whether somebody set this machine's clock: the wall clock, held against one that nobody sets.

Certificates live by the wall clock. When that is set, those that are good seem expired or not valid yet, and
nothing else says why. Which of the two times is right cannot be known here; that it was set can.
"""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

STEP = timedelta(seconds=2)
"""More than this within one look, and the clock was set; what a daemon corrects slowly is less."""
LOOK_S = 1.0
"""How often to look."""


def utc_now() -> datetime:
    return datetime.now(UTC)


def steady() -> float:
    """Seconds that nobody sets, and that a suspended machine does not lose where the system can tell."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SetClock:
    """How far the wall clock was set since this was made: `ahead`, negative for back. Look often."""

    def __init__(
        self, now: Callable[[], datetime] = utc_now, *, steady: Callable[[], float] = steady
    ) -> None:
        self._now = now
        self._steady = steady
        self._apart = self._difference()
        self.ahead = timedelta(0)
        """What the steps come to; zero when it was set back to where it was."""
        self.set_at: float | None = None
        """When it was last set, by the steady clock."""

    def look(self) -> bool:
        """Whether the clock was set since the last look."""
        apart = self._difference()
        step, self._apart = apart - self._apart, apart
        if abs(step) <= STEP:
            return False
        self.set_at = self._steady()
        self.ahead += step
        if abs(self.ahead) <= STEP:
            self.ahead = timedelta(0)
        return True

    def since_set(self) -> float | None:
        """Seconds since it was set away from where it was; None while it stands there."""
        if not self.ahead or self.set_at is None:
            return None
        return self._steady() - self.set_at

    def __str__(self) -> str:
        """In words, for whoever wonders why certificates are refused; empty while there is nothing to say."""
        if not self.ahead:
            return ""
        way = "forward" if self.ahead > timedelta(0) else "back"
        return f"this machine's clock was set {way} by {spelled(abs(self.ahead))}"

    def _difference(self) -> timedelta:
        return self._now() - datetime.fromtimestamp(self._steady(), UTC)


def tell_of_clock(log: logging.Logger, clock: SetClock) -> None:
    """Say once that it was set, and what comes of it."""
    if clock.ahead:
        seem = "expired" if clock.ahead > timedelta(0) else "not valid yet"
        log.error("%s: certificates that are good may seem %s until it is set right", str(clock), seem)
    else:
        log.warning("this machine's clock was set back to where it was")


def spelled(span: timedelta) -> str:
    """A time that has passed, for people: 5 h, 12 min, 2.5 s."""
    seconds = span.total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"
