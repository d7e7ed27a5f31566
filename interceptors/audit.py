"""The audit log: who was refused, and who called the methods that their contract marks `audit`.

Two files in one folder, so that a flood of refusals pushes nothing else out: `calls.log` and `refusals.log`,
JSON lines with the access log's names, only ever appended to, each turned at MOST_BYTES and kept KEPT times.

A method marked `audit` does not begin before a line that says so is in the file: the check here writes it, in
the call's own time (about 10 us), and refuses the call with UNAVAILABLE where it cannot be written. A method
of NO_SIDE_EFFECTS goes on without, or nobody could look at what is wrong. How a call ended, and refusals, are
written a moment later by the thread of records.py; what cannot be written then is kept and tried again, up to
OWED lines. What is lost beyond that is counted, and told as an error.

A line is the system's to keep once it is written: it outlives the process, not a loss of power.
"""

import logging
import threading
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hauberk.interceptors.access_log import encoded, facts
from hauberk.interceptors.call import Call
from hauberk.interceptors.errors import AuditUnwritable
from hauberk.interceptors.policy import Idempotency
from hauberk.interceptors.records import Record
from hauberk.interceptors.rotated_file import RotatedFile

MOST_BYTES = 16 * 1024 * 1024
"""Of one file: about 40,000 lines."""
KEPT = 9
OWED = 20_000
"""Lines of about 400 bytes that wait for a file that cannot be written."""

_TELL_S = 10.0
_FAILED = "INTERNAL"
"""The reason of a call that failed by itself, and was refused by nobody."""

_log = logging.getLogger(__name__)


class AuditLog:
    """The two files in `folder`, made when there is something to write; the sink of records that go there."""

    def __init__(
        self, folder: Path, service_name: str, *, most_bytes: int = MOST_BYTES, owed: int = OWED
    ) -> None:
        """`service_name` is this process's own SPIFFE ID."""
        self._service_name = service_name
        self._calls = _Ledger(folder / "calls.log", most_bytes, owed)
        self._refusals = _Ledger(folder / "refusals.log", most_bytes, owed)

    @property
    def lost(self) -> int:
        """Lines that will never be written."""
        return self._calls.lost + self._refusals.lost

    def begin(self, call: Call) -> None:
        """The last check of a method marked `audit`: raises AuditUnwritable where it may not go on."""
        trace = call.trace
        line = {
            "@timestamp": datetime.now(UTC),
            "event.action": "begun",
            "trace.id": trace.trace_id,
            "span.id": trace.span_id,
            "parent.id": trace.parent_id,
            "rpc.method": call.method,
            "service.name": self._service_name,
            "client.spiffe_id": None if call.peer is None else str(call.peer.spiffe_id),
            "client.address": call.address,
        }
        if self._calls.write(encoded(line)) or call.policy.idempotency is Idempotency.NO_SIDE_EFFECTS:
            return
        raise AuditUnwritable("the audit log cannot be written, and without it this method is not served")

    def take(self, record: Record, began_at: float) -> None:
        if record.policy.audit:
            self._calls.owe(encoded(self._line(record, began_at, "ended")))
        if record.reason is not None and record.reason != _FAILED:
            self._refusals.owe(encoded(self._line(record, began_at, "refused")))
        elif record.tried is not None:
            self._refusals.owe(encoded(self._line(record, began_at, "would have refused")))

    def settle(self) -> None:
        self._calls.pay()
        self._refusals.pay()

    def close(self) -> None:
        """Write what is owed, if it can be; close the files."""
        for ledger in (self._calls, self._refusals):
            ledger.close()

    def _line(self, record: Record, began_at: float, action: str) -> dict[str, Any]:
        line = facts(record, began_at, self._service_name)
        return line | {"event.action": action, "client.address": record.address}


class _Ledger:
    """One of the files, and the lines it is owed."""

    def __init__(self, path: Path, most_bytes: int, owed: int) -> None:
        self._path = path
        self._file = RotatedFile(path, most_bytes=most_bytes, kept=KEPT)
        self._owed: deque[bytes] = deque()
        self._most_owed = owed
        self._telling = threading.Lock()
        self._told_at = -_TELL_S
        self.lost = 0

    def write(self, line: bytes) -> bool:
        """Whether it has been written."""
        try:
            self._file.append(line)
        except OSError as error:
            self._tell(error)
            return False
        return True

    def owe(self, line: bytes) -> None:
        if len(self._owed) < self._most_owed:
            self._owed.append(line)
        else:
            self.lost += 1

    def pay(self) -> None:
        while self._owed and self.write(self._owed[0]):
            self._owed.popleft()

    def close(self) -> None:
        self.pay()
        if self._owed:
            self.lost += len(self._owed)
            self._owed.clear()
        if self.lost:
            _log.error("%d lines are missing from %s for ever", self.lost, self._path)
        self._file.close()

    def _tell(self, error: OSError) -> None:
        with self._telling:
            now = time.monotonic()
            if now - self._told_at < _TELL_S:
                return
            self._told_at = now
        why = (error.strerror or type(error).__name__).lower()
        waiting, lost = len(self._owed), self.lost
        _log.error("%s cannot be written: %s; %d lines wait, %d are lost", self._path, why, waiting, lost)
