"""When each key will have all of its quota back: one number a key, of as many keys as there is room for.

A key that has all of it back is as good as one never seen, so it is forgotten: not by timers, but in passing.
Each new key pays for a look at four that came long before. So there are never more than four thirds of those
that have something to wait for, and one call never pays for all of them.

A key that finds no room is counted in a cell that it shares with others, and whatever comes out of such a
cell has waited in it: nobody gets more than its limit, though where keys collide they get less between them.
"""

MOST_KEYS = 2**20
SHARED = 4096
"""Cells for what finds no room."""

HOME = "\n"
"""Ends the part of a key that says which cell it would share: what comes after it may be invented freely."""

_LOOKS = 4


class Buckets:
    """Instants (monotonic seconds) by key. Not locked: the caller does that."""

    __slots__ = ("_fresh", "_most", "_old", "_shared")

    def __init__(self, most: int = MOST_KEYS) -> None:
        self._most = most
        self._fresh: dict[str, float] = {}
        """No key is in both. New keys come here, until all of the others have been looked at."""
        self._old: dict[str, float] = {}
        self._shared: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._fresh) + len(self._old)

    def full_at(self, key: str) -> float:
        """When the bucket of `key` will be full again; 0, or any time that has passed: it is."""
        at = self._fresh.get(key)
        if at is None:
            at = self._old.get(key)
            if at is None:
                return self._shared.get(_cell(key), 0.0) if self._shared else 0.0
        return at

    def fill_at(self, key: str, at: float, now: float) -> None:
        """From now on the bucket of `key` will be full at that instant."""
        if key in self._fresh:
            self._fresh[key] = at
        elif key in self._old:
            self._old[key] = at
        else:
            self._forget(now)
            if len(self._fresh) + len(self._old) < self._most:
                self._fresh[key] = at
            else:
                self._shared[_cell(key)] = at

    def _forget(self, now: float) -> None:
        for _ in range(_LOOKS):
            if not self._old:
                self._old, self._fresh = self._fresh, self._old
                self._shared = {cell: at for cell, at in self._shared.items() if at > now}
                if not self._old:
                    return
                self._fresh = {}  # the other is empty, but as large as it was
            key, at = self._old.popitem()
            if at > now:
                self._fresh[key] = at


def _cell(key: str) -> int:
    """Which one nobody outside can tell: strings are hashed with a secret of this process."""
    return hash(key.partition(HOME)[0]) % SHARED
