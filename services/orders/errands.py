"""Work that outlives the call which began it, and still has a parent.

A customer who hangs up in the middle of an order must not leave goods without an owner: what the call began
goes on, within limits of its own, and the process waits for it before it leaves.
"""

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from hauberk.services.refusal import is_outage
from hauberk.services.sparing import Sparing

_log = logging.getLogger(__name__)
_log.addFilter(Sparing())
T = TypeVar("T")


class Errands:
    """An async context that ends when the last errand has. Each errand has to bound its own time."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._running:
            await asyncio.wait(self._running)

    async def run(self, errand: Coroutine[Any, Any, T]) -> T:
        """The errand's outcome. If the waiting caller is cancelled, the errand goes on without it."""
        task = asyncio.get_running_loop().create_task(errand)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise


def _log_failure(abandoned: asyncio.Task[Any]) -> None:
    """What nobody waits for any more would fail in silence."""
    if not abandoned.cancelled() and (error := abandoned.exception()) is not None:
        if is_outage(error):
            _log.warning("an errand failed after its caller had gone: the database does not answer")
        else:
            _log.error("an errand failed after its caller had gone", exc_info=error)
