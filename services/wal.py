"""Keeps SQLite's write-ahead log short under readers that never pause.

SQLite empties the log by itself once it holds 1000 pages, but only in a moment without a reader: under four
readers that overlap it was seen to grow by 5 MB a second without end. So whoever gives a connection back and
finds the log too long empties it, and those who come meanwhile wait at a gate until that is done. Every
process that has the file open does so for its own, since none knows of the others' readers.
"""

import logging
import sqlite3
import time
from pathlib import Path
from threading import Event, Lock
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.pool import ConnectionPoolEntry

MOST_BYTES = 8 * 1024 * 1024
"""Twice of what SQLite lets it come to where readers pause: there, nothing of this happens."""
WAIT_S = 0.5
"""How long the transactions that run may take to end, and those that come to wait for it."""
PAUSE_S = 1.0
"""Before it is tried again, where one did not end in time."""

_log = logging.getLogger(__name__)


def keep_short(engine: Engine, database: Path) -> None:
    """Bound the log of `database`, which `engine` opens."""
    log = _WriteAheadLog(database.with_name(f"{database.name}-wal"))
    event.listen(engine, "begin", log.wait)
    event.listen(engine, "checkin", log.look)


class _WriteAheadLog:
    """The log of one database, as one process uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._emptying = Lock()
        self._gate = Event()
        self._gate.set()
        self._not_before = 0.0

    def wait(self, _: object) -> None:
        """Before a transaction: wait while the log is being emptied."""
        self._gate.wait(WAIT_S)

    def look(self, connection: Any, _: ConnectionPoolEntry) -> None:  # a DBAPI connection has no type
        """After one: empty the log if it is too long."""
        if connection is None or time.monotonic() < self._not_before or self._bytes() < MOST_BYTES:
            return
        if not self._emptying.acquire(blocking=False):
            return
        self._gate.clear()
        try:
            self._empty(connection)
        except sqlite3.Error as error:  # a full disk, say: whoever writes next is told
            _log.warning("%s is not emptied: %s", self._path, error)
            self._not_before = time.monotonic() + PAUSE_S
        finally:
            self._gate.set()
            self._emptying.release()

    def _empty(self, connection: Any) -> None:
        """Try until it is done, here or by another process; each attempt waits a moment for readers."""
        ends = time.monotonic() + WAIT_S
        [usual_ms] = connection.execute("PRAGMA busy_timeout").fetchone()
        connection.execute("PRAGMA busy_timeout = 20").close()
        try:
            while self._bytes() >= MOST_BYTES:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
                if time.monotonic() > ends:
                    self._not_before = time.monotonic() + PAUSE_S
                    return
                time.sleep(0.002)
        finally:
            connection.execute(f"PRAGMA busy_timeout = {usual_ms}").close()

    def _bytes(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0
