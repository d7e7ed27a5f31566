"""Puts finished files where others lie: the old ones are moved aside, and all is undone if one move fails.

While it goes on the state folder holds `restoring`, with what has not found its place yet; a process that is
ended there leaves that behind, and `hauberk up` then refuses to start on the half of it, until an exchange
has come to its end.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import chain, count
from pathlib import Path

from hauberk.certs.files import make_folder, sync_folder
from hauberk.cli.state import SUBFOLDERS, State

SIDE_FILES = ("-wal", "-shm", "-journal")
"""What SQLite writes beside a database, and what belongs to it."""


class Exchange:
    """Old for new, below one state folder and for files outside of it."""

    def __init__(self, state: State, *, now: datetime) -> None:
        self._state = state
        self._now = now
        self._moved: list[tuple[Path, Path]] = []
        self.replaced: Path | None = None
        """Where the old ones are; None if there were none."""

    def run(self, fresh: Path, outside: Sequence[tuple[Path, Path]]) -> None:
        """Put each folder in `fresh` in its place, and each new file of `outside` (new, place) too.

        `fresh` becomes `restoring`, and is gone at the end. Raises OSError, and then nothing has changed.
        """
        restoring = self._state.restoring
        is_half_done = restoring.exists()
        if is_half_done:
            _empty(restoring)
        fresh.rename(restoring)  # takes the place of an empty folder at once: the mark is never away
        with self._undone_if_it_fails(restoring, None if is_half_done else fresh):
            # The CA last: without one `up` would make a new one, if it were not for `restoring`.
            for name in (*SUBFOLDERS, "ca"):
                self._aside(self._state.folder / name)
            for _, place in outside:
                for old in (place, *(place.with_name(place.name + side) for side in SIDE_FILES)):
                    if old.exists():
                        self._move(old, _free(old.with_name(f"{old.name}.replaced-{self._stamp}")))
            for new in sorted(restoring.iterdir(), key=lambda path: path.name == "ca"):
                self._move(new, self._state.folder / new.name)
            for new, place in outside:
                self._move(new, place)
            restoring.rmdir()
        sync_folder(self._state.folder)

    @property
    def _stamp(self) -> str:
        return f"{self._now:%Y%m%dT%H%M%SZ}"

    def _aside(self, old: Path) -> None:
        if not old.exists() or not any(old.iterdir()):
            return
        if self.replaced is None:
            self.replaced = _free(self._state.folder / f"replaced-{self._stamp}")
            make_folder(self.replaced)
        self._move(old, self.replaced / old.name)

    def _move(self, path: Path, to: Path) -> None:
        if to.is_dir():
            to.rmdir()  # an empty one that `up` made; anything else is an error
        path.rename(to)
        self._moved.append((path, to))
        sync_folder(to.parent)

    @contextmanager
    def _undone_if_it_fails(self, restoring: Path, fresh: Path | None) -> Iterator[None]:
        """`restoring` becomes `fresh` again; it stays where an earlier try has left half a mesh."""
        try:
            yield
        except BaseException:
            for path, to in reversed(self._moved):
                to.rename(path)
            if self.replaced:
                self.replaced.rmdir()
            if fresh:
                restoring.rename(fresh)
            raise


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _free(path: Path) -> Path:
    """`path`, or with a number where that is taken: two restores in one second, say."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return next(each for each in chain([path], numbered) if not each.exists())
