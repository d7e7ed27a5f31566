"""How often one address may fail to enrol.

A join token has 256 bits and cannot be guessed: this bounds what trying costs us in signatures, queries and
lines of log. Whoever tries from an address where others have failed waits with them; each second that passes
lets one more try.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from hauberk.services.control.errors import TooManyFailures

BURST = 20
PER_SECOND = 1.0
REMEMBERED = 4096
"""Addresses; the one that has not failed for longest is forgotten first."""


class FailedAttempts:
    """A bucket of failures for each address, which drains over time. Not thread-safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raises TooManyFailures while the address's bucket is full."""
        level = self._level(address)
        if level > BURST - 1:
            wait = (level - (BURST - 1)) / PER_SECOND
            raise TooManyFailures(
                f"too many failed attempts from {address}; try again in {wait:.0f} s or more"
            )

    def failed(self, address: str) -> None:
        """Note a failure."""
        self._failures[address] = (self._level(address) + 1, self._clock())
        self._failures.move_to_end(address)
        if len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)

    def _level(self, address: str) -> float:
        level, at = self._failures.get(address, (0.0, 0.0))
        return max(0.0, level - (self._clock() - at) * PER_SECOND)
