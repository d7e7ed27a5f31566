"""A file of lines that only grows, to a bound, beyond which it is set aside and begun anew.

    NAME      the latest, at most `most_bytes` and a line
    NAME.1    what came before it, as much again; and so on to NAME.<kept>

Several processes may write one: each line goes out in one piece (O_APPEND), and only one of them turns it.
"""

import contextlib
import errno
import fcntl
import os
import threading
from pathlib import Path


class RotatedFile:
    """Written without a buffer, for its owner's eyes (0600). Everything raises OSError; `close` when done.

    It is opened by the first line, and again after a failure. May be used by several threads.
    """

    def __init__(self, path: Path, *, most_bytes: int, kept: int = 1) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._kept = kept
        self._descriptor: int | None = None
        self._torn = False
        """Whether the last line in it lacks its end: the disk was full in the middle of it."""
        self._lock = threading.Lock()

    def append(self, line: bytes) -> None:
        """Write `line`, which brings its own end; when this returns it is the system's to keep."""
        with self._lock:
            try:
                self._append(line)
            except OSError:
                self._close()
                raise

    def close(self) -> None:
        with self._lock:
            self._close()

    def _append(self, line: bytes) -> None:
        descriptor = self._open() if self._descriptor is None else self._descriptor
        state = os.fstat(descriptor)
        if state.st_nlink == 0 or (state.st_size and state.st_size + len(line) > self._most_bytes):
            self._turn(state.st_ino)
            self._close()
            descriptor = self._open()
        self._descriptor = descriptor
        whole = b"\n" + line if self._torn else line
        if os.write(descriptor, whole) < len(whole):
            self._torn = True  # what is left would be another piece, with another process's line in between
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._torn = False

    def _turn(self, inode: int) -> None:
        """Set aside what is written to so far, unless somebody else has done so."""
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if self._path.stat().st_ino != inode:
                    return
                for number in range(self._kept - 1, 0, -1):
                    with contextlib.suppress(FileNotFoundError):
                        self._aside(number).replace(self._aside(number + 1))
                self._path.replace(self._aside(1))
        finally:
            os.close(folder)

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _open(self) -> int:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._path, flags, 0o600)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
