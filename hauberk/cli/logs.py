"""What the processes of a mesh said, in files of bounded size: so that a crash can be read afterwards.

    NAME.log      the latest, at most MOST_BYTES and a line
    NAME.log.1    what came before it, as much again

Nothing waits for them and nothing fails with them: what cannot be written, on a full disk say, is not kept.
"""

import contextlib
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from hauberk.interceptors.rotated_file import RotatedFile

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
        self._files: dict[str, RotatedFile] = {}
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
                path = self._folder / file_name(name)
                file = self._files[name] = RotatedFile(path, most_bytes=self._most_bytes)
            file.append(record.encode("utf-8", "replace"))
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
