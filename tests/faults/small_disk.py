"""A disk of its own for one folder, small enough to be filled."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FREE = "filling"


class SmallDisk:
    """Made by `small_disk`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Leave no byte and no file free."""
        with (self.folder / FREE).open("ab", buffering=0) as filling:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while True:
                        filling.write(b"\0" * size)
                except OSError:
                    pass

    def free(self) -> None:
        (self.folder / FREE).unlink()


@contextmanager
def small_disk(folder: Path, *, size: str = "8m") -> Iterator[SmallDisk]:
    """Mounts a tmpfs at `folder`, which is made. Skips the test where we may not mount."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root: run the tests as root, in a container for instance")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here (docker run --privileged): {mounted.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", folder], check=True)
