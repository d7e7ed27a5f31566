"""Takes up what nobody works on any more: the orders of a killed worker, and those that could not be undone.

Every replica looks all the time, and takes only what is abandoned (lease.py): a restarted replica never
touches its twin's living order. What it does depends on what was recorded last:

    new, reserved   on, if the order is younger than PATIENCE; else back. Goods may be held, or money set
                    aside: its step is asked for again, or barred, whether it had been done or not.
    authorised      on, however old. The money may be taken, and only payments can tell; to go back would take
                    them no less, and would end worse for the customer.
    charged         on: nothing is left to be asked for.
    a failure       back, however often it takes.

What a callee refuses for good turns an order back at any stage. That a callee is away does not before the
order is old: nobody waits for an answer here. What could not be settled rests half as long as it has lain
since its last record, 1 s to LONGEST_REST; so it is tried ever more seldom, and a callee's return is met
within half the time it was away. A customer who asks with its key does not wait for that.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from sqlalchemy.exc import SQLAlchemyError

from hauberk.certs.clock import utc_now
from hauberk.services.orders.errors import ClaimLost
from hauberk.services.orders.lease import LONGEST_REST
from hauberk.services.orders.saga import Saga
from hauberk.services.orders.store import Claim, Order, OrderStore, Stage

LOOK_S = 1.0
"""Between two looks that find nothing."""
LONGEST_PAUSE_S = 30.0
"""Between two looks while the database does not answer."""
AT_ONCE = 8
"""How many orders one replica recovers at the same time at most: callers come first."""
ATTEMPT_S = 5.0
"""How long the steps forward of one order may take: what a caller would give them at most."""
PATIENCE = timedelta(seconds=60)
"""How old an order is for which goods are still bought. By then the customer has asked again, or gone."""
NO_REST, SHORTEST_REST = timedelta(0), timedelta(seconds=1)

_log = logging.getLogger(__name__)


class Recovery:
    """Recovers orders while its block runs, until `leaving` is set; what it works on then is given up.

    Its calls belong to no caller's deadline.
    """

    def __init__(
        self,
        store: OrderStore,
        saga: Saga,
        leaving: asyncio.Event,
        *,
        now: Callable[[], datetime] = utc_now,
        look_s: float = LOOK_S,
    ) -> None:
        self._store = store
        self._saga = saga
        self._leaving = leaving
        self._now = now
        self._look_s = self._pause_s = look_s

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._ending = loop.create_task(self._leaving.wait())
        self._running = loop.create_task(self._run(self._ending))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.cancel()
        await self._running

    async def _run(self, ending: asyncio.Task[Any]) -> None:
        working: set[asyncio.Task[Any]] = set()
        async with asyncio.TaskGroup() as group:
            # Replicas that were started together look apart.
            await asyncio.wait([ending], timeout=_jittered(self._look_s))
            while not ending.done():
                taken = await self._take() if len(working) < AT_ONCE else None
                if taken is None:
                    pause = _jittered(self._pause_s)
                    await asyncio.wait([ending, *working], timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                elif ending.done():
                    await self._give_up(*taken)
                else:
                    working.add(task := group.create_task(self._recover(*taken)))
                    task.add_done_callback(working.discard)
            for task in working:
                task.cancel()

    async def _take(self) -> tuple[Order, Claim] | None:
        """An abandoned order, ours now; None where there is none, or no database."""
        try:
            taken = await asyncio.to_thread(self._store.take, now=self._now())
        except SQLAlchemyError as error:
            _log.warning("abandoned orders cannot be looked for: %s", _first_line(error))
        except Exception:  # the next look may find another
            _log.exception("abandoned orders cannot be looked for")
        else:
            self._pause_s = self._look_s
            return taken
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return None

    async def _recover(self, order: Order, claim: Claim) -> None:
        """Settle it, or give it up again."""
        settled: Order | None = None
        rest = NO_REST
        try:
            hopeful = self._is_hopeful(order)
            until = time.monotonic() + (ATTEMPT_S if hopeful else 0.0)
            settled = await self._saga.settle(order, claim, until, patient=hopeful)
            rest = self._rest(settled)
        except ClaimLost as lost:
            _log.warning("%s", lost)
        except SQLAlchemyError as error:
            _log.warning("order %s cannot be recovered now: %s", order.order_id, _first_line(error))
            rest = self._rest(order)
        except Exception:  # of one order; the others are to be recovered still
            _log.exception("order %s cannot be recovered", order.order_id)
            rest = self._rest(order)
        finally:
            if settled is None or not settled.final:
                await self._give_up(order, claim, rest)
        if settled is not None:
            _log.info("order %s was left %s, and is %s now", order.order_id, _told(order), _told(settled))

    async def _give_up(self, order: Order, claim: Claim, rest: timedelta = NO_REST) -> None:
        try:
            await asyncio.to_thread(self._store.leave, order, claim, now=self._now(), rest=rest)
        except SQLAlchemyError as error:  # then the claim runs out by itself
            _log.warning("order %s cannot be given up: %s", order.order_id, _first_line(error))
        except Exception:  # no thread can be started, say; the others are to be recovered still
            _log.exception("order %s cannot be given up", order.order_id)

    def _is_hopeful(self, order: Order) -> bool:
        """Whether it is to be placed still, where nothing but time stands against it."""
        return order.stage is Stage.AUTHORISED or self._age(order.created_at) < PATIENCE

    def _rest(self, order: Order) -> timedelta:
        half = self._age(order.updated_at) / 2
        return max(SHORTEST_REST, min(half, LONGEST_REST)) * random.uniform(0.75, 1.0)  # noqa: S311 - spreads replicas

    def _age(self, since: datetime) -> timedelta:
        return self._now() - since


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311 - spreads replicas


def _told(order: Order) -> str:
    return f"{order.stage}, to be undone" if order.failure and not order.final else str(order.stage)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
