"""What the servers of a test's mesh have kept of the calls they served: their access logs, in memory."""

import asyncio
import time
from typing import Any

from hauberk.interceptors.access_log import facts
from hauberk.interceptors.records import Record

_AGAIN_S = 0.005


class CallLog:
    """One entry for each call that is over, with the access log's names: `grpc.status`, `error.reason`,
    `client.spiffe_id`, `rpc.method`, `service.name`, `trace.id`.

    A caller hears before its entry is there: wait for it, or look when its server has stopped.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    async def reach(self, count: int, *, within_s: float = 5.0) -> list[dict[str, Any]]:
        """All of them, once there are so many. Raises AssertionError where there are not in time."""
        until = time.monotonic() + within_s
        while len(self.entries) < count and time.monotonic() < until:  # noqa: ASYNC110 - a thread writes
            await asyncio.sleep(_AGAIN_S)
        return self._reached(count)

    def wait(self, count: int, *, within_s: float = 5.0) -> list[dict[str, Any]]:
        """The same for tests that are not asyncio."""
        until = time.monotonic() + within_s
        while len(self.entries) < count and time.monotonic() < until:
            time.sleep(_AGAIN_S)
        return self._reached(count)

    def _reached(self, count: int) -> list[dict[str, Any]]:
        if len(self.entries) < count:
            raise AssertionError(f"{len(self.entries)} calls are in the log, not {count}: {self.entries}")
        return list(self.entries)


class Lines:
    """What puts the records of one server into the log."""

    def __init__(self, log: CallLog, service_name: str) -> None:
        self._log = log
        self._service_name = service_name

    def take(self, record: Record, began_at: float) -> None:
        self._log.entries.append(facts(record, began_at, self._service_name))

    def settle(self) -> None:
        """Nothing is kept back."""
