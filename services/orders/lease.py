"""How long a claim on an order lasts, by whose clock, and how it is kept while somebody works.

A claim is a lease (owner, until). Nothing exact hangs on it: every record is conditional on the owner, and
callees bar what has been given back, so a worker that outlives its lease changes nothing. It decides who
works, and when an order counts as abandoned; too short costs needless takeovers, too long costs waiting.

All replicas compare leases with one clock: PostgreSQL's own, or on SQLite that of the one machine they run
on, which they pass as `now`. So it does not matter how far the clocks of two machines differ. Where that one
clock is set forward, living claims end early: the worker finds that out at its next record. Where it is set
back, no claim is believed that reaches further than any is given.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import Context
from datetime import datetime, timedelta

from sqlalchemy import Column, ColumnElement, Connection, DateTime, func, literal, or_
from sqlalchemy.exc import SQLAlchemyError

from hauberk.services.database import Instant

LEASE = timedelta(seconds=5)
"""After a kill an order waits this long at most, and a look, until it is taken up. Renewed every third of it:
one renewal may fail, and the other may be late by more than a crowded machine makes a living process wait.
"""
LONGEST_REST = timedelta(seconds=30)
"""How long recovery leaves an order alone at most that it could not settle."""

_log = logging.getLogger(__name__)


def shared_clock(
    connection: Connection, now: datetime, after: timedelta = timedelta(0)
) -> ColumnElement[datetime]:
    """The instant `after` the present, by the clock that all replicas share."""
    if connection.dialect.name == "postgresql":
        # Not now(), which stands still while a statement waits for another's lock.
        return func.clock_timestamp(type_=DateTime(timezone=True)) + after
    return literal(now + after, Instant)


def run_out(connection: Connection, until: Column[datetime], now: datetime) -> ColumnElement[bool]:
    """Whether `until` has passed, is absent, or lies further ahead than anything that was ever given."""
    furthest = max(LEASE, LONGEST_REST)
    return or_(
        until.is_(None),
        until < shared_clock(connection, now),
        until > shared_clock(connection, now, furthest),
    )


@asynccontextmanager
async def kept(renew: Callable[[], None], every: timedelta) -> AsyncIterator[None]:
    """Call `renew` in a thread every so often while the block runs, whether it succeeds or not."""
    renewals = asyncio.get_running_loop().create_task(_renewals(renew, every), context=Context())
    try:
        yield
    finally:
        renewals.cancel()
        await asyncio.wait([renewals])


async def _renewals(renew: Callable[[], None], every: timedelta) -> None:
    while True:
        await asyncio.sleep(every.total_seconds())
        try:
            await asyncio.to_thread(renew)
        except SQLAlchemyError as error:
            _log.warning("a claim was not renewed: %s", str(error).partition("\n")[0])
