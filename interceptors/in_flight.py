"""How many calls one peer may have in flight, and how much of what it asked for it may leave unread.

Core's own limits are shared by all: one peer that opens calls and leaves them takes every place. Here each
takes its own. A call is in flight until its method has ended. Its reply may wait far longer in core, for a
peer that lets nothing be sent: those are counted too, by their size.

Calls may come and go in any thread: the lock costs a fifth of a microsecond.
"""

import threading
from collections import defaultdict
from collections.abc import Callable
from functools import partial

from hauberk.interceptors.call import Call
from hauberk.interceptors.errors import RepliesUnread, TooManyInFlight

PER_PEER = 100
UNREAD_BYTES = 64 * 1024 * 1024
"""Of one peer."""
SENDING_BYTES = 64 * 1024
"""What a call takes until it is sent, beside its reply: 50 KB were measured, and core gathers up to 64."""


class InFlight:
    """Calls in flight by peer: by SPIFFE ID, or by address where the caller shows no certificate."""

    def __init__(self, per_peer: int = PER_PEER, *, unread_bytes: int = UNREAD_BYTES) -> None:
        if per_peer < 1:
            raise ValueError(f"calls in flight per peer must be at least 1: {per_peer}")
        self._per_peer = per_peer
        self._unread_bytes = unread_bytes
        self._taken: dict[str, int] = {}
        self._unread: defaultdict[str, int] = defaultdict(int)
        self._lock = threading.Lock()

    def enter(self, call: Call) -> None:
        """Take a place for `call`, or raise TooManyInFlight, or RepliesUnread."""
        peer = call.caller
        with self._lock:
            taken = self._taken.get(peer, 0)
            if taken >= self._per_peer:
                raise TooManyInFlight(
                    f"{taken} calls of one peer in flight, no more are accepted",
                    metadata={"limit": str(self._per_peer)},
                )
            if peer in self._unread:
                self._check_unread(peer, self._unread_bytes // 2)  # the rest is for the calls in flight
            self._taken[peer] = taken + 1
        call.slot = peer

    def leave(self, call: Call) -> None:
        """Give back the place of `call`, if it took one. Called for one call by one thread at a time."""
        peer = call.slot
        if peer is None:
            return
        call.slot = None
        with self._lock:
            left = self._taken[peer] - 1
            if left:
                self._taken[peer] = left
            else:
                del self._taken[peer]

    def send(self, call: Call, size: int) -> Callable[[], None]:
        """Count a reply of `size` bytes as unread; what is returned is to be called once it has been sent.

        Raises RepliesUnread where it is too much: then it must not be sent.
        """
        peer = call.slot
        if peer is None:
            return _nothing
        with self._lock:
            self._check_unread(peer, size)
            self._unread[peer] += size + SENDING_BYTES
        return partial(self._sent, peer, size + SENDING_BYTES)

    def count(self, peer: str) -> int:
        """Calls of `peer` in flight now."""
        return self._taken.get(peer, 0)

    def unread(self, peer: str) -> int:
        """Bytes of replies that core still holds for `peer`, with what the calls take beside them."""
        return self._unread.get(peer, 0)

    def _check_unread(self, peer: str, size: int) -> None:
        unread = self._unread.get(peer, 0)
        if unread and unread + size > self._unread_bytes:
            raise RepliesUnread(
                f"replies of {unread} bytes wait to be read by one peer, no more are sent",
                metadata={"limit": str(self._unread_bytes)},
            )

    def _sent(self, peer: str, size: int) -> None:
        with self._lock:
            self._unread[peer] -= size
            if not self._unread[peer]:
                del self._unread[peer]


def _nothing() -> None:
    """Nothing was counted."""
