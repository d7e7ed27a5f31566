"""What the processes of a mesh said, in files of bounded size: so that a crash can be read afterwards.

    NAME.log      the latest, at most MOST_BYTES and a line
    NAME.log.1    what came before it, as much again

Nothing waits for them and nothing fails with them: what cannot be written, on a full disk say, is not kept.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

MOST_BYTES = 1024 * 1024
RETRY_S = 10.0
"""After a failed write, before the next is tried: a full disk is not asked for every line."""


def file_name(process: str) -> str:
    """Of the log of the process "orders-1"; no segment of a name holds a dot, so no two share one."""
    return f"{process.replace('/', '.')}.log"


class Logs:
    """The logs in `folder`, which must exist. `say` is told when they cannot be kept. `close` when done."""

    def __init__(self, folder: Path, *, say: Callable[[str], None], most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        self._say = say
        self._most_bytes = most_bytes
        self._files: dict[str, _File] = {}
        self._silent_until = 0.0
        self._failing = False

    def keep_only(self, names: Iterable[str]) -> None:
        """Remove the logs of all others: of processes that the mesh no longer has."""
        kept = {file_name(name) for name in names}
        with contextlib.suppress(OSError):
            for path in self._folder.glob("*.log*"):
                if path.name.removesuffix(".1") not in kept:
                    path.unlink()

    def write(self, name: str, line: str) -> None:
        """Keep a line of the process `name`, with the time."""
        if time.monotonic() < self._silent_until:
            return
        now = datetime.now(UTC)
        record = f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z {line}\n"
        try:
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = _File(self._folder / file_name(name))
            file.write(record.encode("utf-8", "replace"), self._most_bytes)
            self._failing = False
        except OSError as error:
            self._forget(name)
            self._silent_until = time.monotonic() + RETRY_S
            if not self._failing:
                self._failing = True
                self._say(f"logs are not kept in {self._folder} for now: {(error.strerror or '').lower()}")

    def close(self) -> None:
        for name in list(self._files):
            self._forget(name)

    def _forget(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            file.close()


class _File:
    """One log, written without a buffer. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = self._open()
        self._size = os.fstat(self._descriptor).st_size

    def write(self, record: bytes, most_bytes: int) -> None:
        if self._size and self._size + len(record) > most_bytes:
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            fresh = self._open()
            os.close(self._descriptor)
            self._descriptor, self._size = fresh, 0
        self._size += os.write(self._descriptor, record)

    def close(self) -> None:
        os.close(self._descriptor)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._path, flags, 0o600)
