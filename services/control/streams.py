"""Calls that stay open: each ends with the certificate it came with, or before when we say so."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from hauberk.certs.identity import LeafIdentity, SpiffeId
from hauberk.interceptors.call import current_call
from hauberk.interceptors.errors import Draining, Refused, Unidentified


def caller() -> LeafIdentity:
    """Who makes the call being served. Raises Unidentified, should a policy have let nobody in."""
    call = current_call()
    if call is None or call.peer is None:
        raise Unidentified("this method is for callers with a certificate", reason="NO_CERTIFICATE")
    return call.peer


class Stream:
    """One open call."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self.ended = False
        self.why: Refused | None = None

    def end(self, why: Refused | None) -> None:
        """End the call with this status, None for OK. Only the first word counts."""
        if not self.ended and not self._limit.expired():
            self.ended, self.why = True, why
            self._limit.reschedule(asyncio.get_running_loop().time())


class Streams:
    """Every open call of one server; lives in one event loop."""

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._open: dict[Stream, SpiffeId] = {}
        self._closed = False

    @asynccontextmanager
    async def open(self, peer: LeafIdentity) -> AsyncIterator[Stream]:
        """The body runs until it is done, the stream is ended or the certificate is over: SVID_EXPIRED."""
        if self._closed:
            raise _leaving()
        left = (peer.not_after - self._now()).total_seconds()
        stream = None
        try:
            async with asyncio.timeout(left) as limit:
                stream = Stream(limit)
                self._open[stream] = peer.spiffe_id
                yield stream
        except TimeoutError:
            if stream is None or not limit.expired():
                raise
            if not stream.ended:
                raise Unidentified(
                    "the certificate of this call has expired", reason="SVID_EXPIRED"
                ) from None
            if stream.why is not None:
                raise stream.why from None
        finally:
            if stream is not None:
                del self._open[stream]

    def end(self, spiffe_id: SpiffeId, why: Refused) -> None:
        """End every call of this name."""
        for stream, name in self._open.items():
            if name == spiffe_id:
                stream.end(why)

    def close(self) -> None:
        """End every call, and let none begin: the server is leaving."""
        self._closed = True
        for stream in self._open:
            stream.end(_leaving())


def _leaving() -> Draining:
    return Draining("the control plane is stopping; come back")
