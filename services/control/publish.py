"""Gathers changes of the mesh for a moment, then publishes one snapshot of them.

Every change of endpoints makes clients of that workload shake hands with all of it anew (gRPC makes a new
certificate provider at each update and compares providers by address), so ten replicas that start together
must be one change.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from hauberk.certs.watch import Watch
from hauberk.services.control.snapshot import Snapshot, Workload

QUIET_SECONDS = 0.075
"""Published once nothing has changed for so long."""
LATEST_SECONDS = 0.150
"""Published at the latest so long after the first change."""

_log = logging.getLogger(__name__)


class Timer(Protocol):
    """Something that will be called, unless cancelled."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Seconds that only grow, and calls at a later one of them; every event loop is one."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Timer: ...


class Publisher:
    """The one writer of `snapshots`. Lives in one event loop, whose clock it uses unless given another."""

    def __init__(self, snapshot: Snapshot, *, clock: Clock | None = None) -> None:
        """Starts from `snapshot`, which has to be the mesh as stored: the first clients are told of it."""
        self.snapshots = Watch(snapshot)
        self._clock = clock or asyncio.get_running_loop()
        self._next: tuple[tuple[Workload, ...], frozenset[str]] | None = None
        self._first_change = 0.0
        self._timer: Timer | None = None

    def update(self, workloads: Iterable[Workload], revoked: Iterable[str]) -> None:
        """Publish this soon, together with what else changes meanwhile."""
        now = self._clock.time()
        if self._next is None:
            self._first_change = now
        self._next = (tuple(workloads), frozenset(revoked))
        self._cancel()
        due = min(now + QUIET_SECONDS, self._first_change + LATEST_SECONDS)
        self._timer = self._clock.call_later(max(0.0, due - now), self.flush)

    def flush(self) -> None:
        """Publish what was gathered now: for a revocation, which does not wait, and before the end.

        Content that is published already is not published again. What cannot be published is logged, and the
        last good snapshot stays.
        """
        self._cancel()
        gathered, self._next = self._next, None
        if gathered is None:
            return
        before = self.snapshots.value
        try:
            snapshot = Snapshot.of(before.trust_domain, *gathered)
        except ValueError:
            _log.exception("the mesh cannot be published as it is; callers keep what they have")
            return
        if snapshot.version != before.version:
            for service in sorted(snapshot.contested - before.contested):
                _log.error("several workloads offer %s: calls must name one of them", service)
            self.snapshots.set(snapshot)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
