"""An order's way from one recorded stage to the next, and back.

Each step asks a callee, then records the outcome; nothing further is asked before that is recorded. So
whoever finds an order at a stage, later or in another process, can go on from there: every callee answers a
repeated question as it did the first time. Once the failure is recorded there is only the way back; once it
is recorded that the money is taken, only the way on. While it works, the claim on the order is kept up.
"""

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import datetime

from hauberk.interceptors.call import current_call
from hauberk.interceptors.tracing import TRACEPARENT, TraceContext
from hauberk.services.money import Money
from hauberk.services.orders.callees import Callees, Metadata, StepFailed
from hauberk.services.orders.errors import GAVE_UP
from hauberk.services.orders.lease import kept
from hauberk.services.orders.store import Claim, Failure, Order, OrderStore, Stage
from hauberk.services.sparing import Sparing

UNDO_S = 2.0
"""How long undoing takes at most: it starts where the caller's time ends, and is not cut by it."""
PAUSE_S = 0.1
"""Before the second attempt to undo something; doubled before each further one."""

GiveBack = Callable[[Order, float, Metadata], Awaitable[None]]

_log = logging.getLogger(__name__)
_log.addFilter(Sparing())


class Saga:
    """Settles orders; `changed` is called after each record."""

    def __init__(
        self,
        store: OrderStore,
        callees: Callees,
        *,
        now: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._callees = callees
        self._now = now
        self._changed = changed

    async def settle(self, order: Order, claim: Claim, until: float, *, patient: bool = False) -> Order:
        """Bring the order to its end, as far as that can be done now.

        Steps forward begin and end before `until` (monotonic seconds); undoing has UNDO_S of its own. A step
        that fails, but may succeed later, is the order's failure, unless `patient`: then it is left undone.
        What comes back is final, or still the claim's. Raises ClaimLost.
        """
        async with kept(lambda: self._store.renew(order, claim, now=self._now()), self._store.lease / 3):
            while not order.final and order.failure is None:
                try:
                    order = await self._step(order, claim, until)
                except StepFailed as failed:
                    if failed.passing and patient:
                        return order
                    order = await self._record_failure(order, claim, failed.failure)
            return order if order.final else await self._undo(order, claim)

    async def _step(self, order: Order, claim: Claim, until: float) -> Order:
        match order.stage:
            case Stage.NEW:
                total = await self._callees.reserve(order, _left(until))
                return await self._record(order, claim, Stage.RESERVED, total)
            case Stage.RESERVED:
                if order.total is None:
                    raise ValueError(f"reserved without a total: order {order.order_id}")
                await self._callees.authorise(order, order.total, _left(until))
                return await self._record(order, claim, Stage.AUTHORISED)
            case Stage.AUTHORISED:
                await self._callees.capture(order, _left(until))
                return await self._record(order, claim, Stage.CHARGED)
            case Stage.CHARGED:
                return await self._record(order, claim, Stage.PLACED)
            case _:
                raise ValueError(f"no step from {order.stage}: order {order.order_id}")

    async def _undo(self, order: Order, claim: Claim) -> Order:
        """Give everything back and record that."""
        if await self._given_back(order):
            return await self._record(order, claim, Stage.FAILED)
        _log.warning("order %s is not undone yet: goods or money may still be held", order.order_id)
        return order

    async def _given_back(self, order: Order) -> bool:
        # Outside the call's context, or the calls below would inherit what is left of its deadline: often
        # nothing.
        until = time.monotonic() + UNDO_S
        metadata = _same_trace()
        async with asyncio.TaskGroup() as group:
            steps: list[GiveBack] = [self._callees.release]
            if order.stage is not Stage.NEW:
                steps.append(self._callees.refund)
            attempts = [
                group.create_task(_attempted(step, order, until, metadata), context=contextvars.Context())
                for step in steps
            ]
        return all(attempt.result() for attempt in attempts)

    async def _record(self, order: Order, claim: Claim, stage: Stage, total: Money | None = None) -> Order:
        later = await asyncio.to_thread(
            self._store.advance, order, claim, stage, now=self._now(), total=total
        )
        self._changed()
        return later

    async def _record_failure(self, order: Order, claim: Claim, failure: Failure) -> Order:
        later = await asyncio.to_thread(self._store.fail, order, claim, failure, now=self._now())
        self._changed()
        return later


async def _attempted(step: GiveBack, order: Order, until: float, metadata: Metadata) -> bool:
    """Whether the step was done before `until`; tried again, with growing pauses, while that can help."""
    pause = PAUSE_S
    while (left := until - time.monotonic()) > 0:
        try:
            await step(order, left, metadata)
        except StepFailed as failed:
            if not failed.passing:
                return False
            await asyncio.sleep(min(pause, max(0.0, until - time.monotonic())))
            pause *= 2
        else:
            return True
    return False


def _left(until: float) -> float:
    """Seconds left for a step forward; raises StepFailed when there are none, and nothing is asked."""
    left = until - time.monotonic()
    if left <= 0:
        raise StepFailed(Failure(reason=GAVE_UP, message="time ran out"), passing=True)
    return left


def _same_trace() -> Metadata:
    call = current_call()
    trace = TraceContext.new() if call is None else call.trace
    return ((TRACEPARENT, trace.header()),)
