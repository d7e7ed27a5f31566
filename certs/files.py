"""Files that hold secrets: 0600 in folders of 0700, written whole or not at all, refused when looser.

Order of a write: a new file beside the old one, fsync, rename over it, fsync of the folder. A crash at any
point leaves the old content or the new, never a part.
"""

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from hauberk.certs.errors import StoreError

FOLDER_MODE = 0o700
FILE_MODE = 0o600
MAX_BYTES = 1024 * 1024


def make_folder(folder: Path) -> None:
    """Make `folder` (and those above it) private to us; if it is there, check that it is."""
    with told(folder, "cannot make"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(mode=FOLDER_MODE)
        except FileExistsError:
            check_folder(folder)
        else:
            folder.chmod(FOLDER_MODE)  # whatever the umask took away


def check_folder(folder: Path) -> None:
    """Raises StoreError unless `folder` is a folder of ours that nobody else may enter."""
    with told(folder, "cannot read"):
        status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{folder} is not a folder: move it away")
    _check_private(folder, status, FOLDER_MODE)


def read(path: Path) -> bytes:
    """The content of a private file of ours. Raises StoreError if others may use it or it is not plain."""
    with told(path, "cannot read"):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise StoreError(f"{path} is not a plain file: move it away")
            _check_private(path, status, FILE_MODE)
            if status.st_size > MAX_BYTES:
                raise StoreError(f"{path} is larger than {MAX_BYTES} bytes: move it away")
            return file.read(MAX_BYTES)


def create(path: Path, content: bytes) -> None:
    """Write a new private file and have it on disk. Raises StoreError if the name is taken or it fails."""
    with told(path, "cannot write"):
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE
        )
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, FILE_MODE)
            file.write(content)
            file.flush()
            os.fsync(descriptor)


def replace(path: Path, content: bytes) -> None:
    """Write a private file, whole or not at all."""
    fresh = path.with_name(f".{path.name}.new")
    with told(path, "cannot write"):
        fresh.unlink(missing_ok=True)
        create(fresh, content)
        fresh.replace(path)
        sync_folder(path.parent)


def point(link: Path, target: str) -> None:
    """Make the symbolic link `link` lead to its neighbour `target`, at once for every reader."""
    fresh = link.with_name(f".{link.name}.new")
    with told(link, "cannot write"):
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(link)
        sync_folder(link.parent)


def rename_folder(fresh: Path, final: Path) -> None:
    """Give a finished folder its name, which must be free."""
    with told(final, "cannot write"):
        sync_folder(fresh)
        fresh.rename(final)
        sync_folder(final.parent)


def remove_folder(folder: Path) -> None:
    """Remove `folder` and all in it, if it is there."""
    with told(folder, "cannot remove"):
        if folder.exists():
            shutil.rmtree(folder)


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """A lock on a file, held until `release`, or until this process ends however it ends."""

    def __init__(self, descriptor: int) -> None:
        """Use `lock`."""
        self._descriptor = descriptor

    def release(self) -> None:
        """Let the next one have it; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock(path: Path) -> Lock | None:
    """The lock on `path`, or None while another process, or part of this one, holds it. Never waits."""
    with told(path, "cannot lock"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
    return Lock(descriptor)


@contextmanager
def told(path: Path, what: str) -> Iterator[None]:
    """Turns the system's error about `path` into a StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{what} {path}: {(error.strerror or str(error)).lower()}") from error


def _check_private(path: Path, status: os.stat_result, mode: int) -> None:
    if status.st_uid != os.geteuid():
        raise StoreError(
            f"{path} belongs to user {status.st_uid}, not to us: chown it, or use a folder of our own"
        )
    if stat.S_IMODE(status.st_mode) & ~mode:
        found = stat.S_IMODE(status.st_mode)
        raise StoreError(f"{path} has mode {found:04o}, others could use it: chmod {mode:04o} {path}")
