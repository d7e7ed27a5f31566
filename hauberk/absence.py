"""Whether core may have missed that the control plane is back, which its xDS connection learns late.

That connection sends a keepalive every five minutes, so behind a network that drops packets it is dead for as
long and does not know (fixed in core: xds_transport_grpc.cc). And where it knows, it waits longer after each
attempt. Our own connection to the control plane does better.
"""

import grpc

LONG_S = 30.0
"""After so long core may wait for 15 s and more before it asks again; after 20 s it did for 10."""

_SILENCE = ("ping timeout", "keepalive", "timed out", "Endpoint closing")
"""What core says of a connection whose other end it has not heard; the last, of one it gave up making."""


class Absence:
    """From the loss of the control plane until it is heard again. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._silent = False

    def lost(self, error: grpc.aio.AioRpcError, now: float) -> None:
        """A call to the control plane has ended so; perhaps one of many."""
        if self._since is None:
            self._since = now
        self._silent = self._silent or was_silence(error)

    def over(self, now: float) -> bool:
        """The control plane is heard; whether core has to be told to look."""
        since, silent = self._since, self._silent
        self._since, self._silent = None, False
        return since is not None and (silent or now - since > LONG_S)


def was_silence(error: grpc.aio.AioRpcError) -> bool:
    """Whether the peer was lost because it said nothing any more: nobody has closed the connection."""
    return any(words in (error.details() or "") for words in _SILENCE)
