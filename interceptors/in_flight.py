"""How many calls one peer may have in flight.

Core's own limits are shared by all: one peer that opens calls and leaves them takes every place. Here each
takes its own.
"""

from hauberk.interceptors.call import Call
from hauberk.interceptors.errors import TooManyInFlight

PER_PEER = 100


class InFlight:
    """Calls in flight by peer: by SPIFFE ID, or by address where the caller shows no certificate."""

    def __init__(self, per_peer: int = PER_PEER) -> None:
        if per_peer < 1:
            raise ValueError(f"calls in flight per peer must be at least 1: {per_peer}")
        self._per_peer = per_peer
        self._taken: dict[str, int] = {}

    def enter(self, call: Call) -> None:
        """Take a place for `call`, or raise TooManyInFlight."""
        peer = call.address.rpartition(":")[0] if call.peer is None else str(call.peer.spiffe_id)
        taken = self._taken.get(peer, 0)
        if taken >= self._per_peer:
            raise TooManyInFlight(
                f"{taken} calls of one peer in flight, no more are accepted",
                metadata={"limit": str(self._per_peer)},
            )
        self._taken[peer] = taken + 1
        call.slot = peer

    def leave(self, call: Call) -> None:
        """Give back the place of `call`, if it took one."""
        if call.slot is None:
            return
        left = self._taken[call.slot] - 1
        if left:
            self._taken[call.slot] = left
        else:
            del self._taken[call.slot]
        call.slot = None

    def count(self, peer: str) -> int:
        """Calls of `peer` in flight now."""
        return self._taken.get(peer, 0)
