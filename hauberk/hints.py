"""What a failed call's status does not say: core's errors, read together with our own certificate and clock.

gRPC tells a caller neither why its certificate was refused nor that its own has expired. These hints are
added to the details of UNAVAILABLE, PERMISSION_DENIED and RESOURCE_EXHAUSTED as core makes them; a status
that carries details of the server's own (google.rpc.Status) explains itself and is left alone.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import grpc

from hauberk.certs.clock import SetClock, spelled, utc_now
from hauberk.certs.credentials import Credentials
from hauberk.certs.errors import CertsError
from hauberk.certs.identity import SpiffeId
from hauberk.certs.watch import Watch
from hauberk.interceptors.error_info import reason_in
from hauberk.interceptors.errors import DETAILS_KEY

_NO_ROUTE = (
    "no route: callers of this method do not include {me}, or nobody serves it; see `hauberk policy show`"
)
_NO_CONTROL = (
    "the control plane does not answer, so no route is known yet; is it running? see `hauberk doctor`"
)
_NO_ENDPOINT = "nobody serves this contract at the moment; see `hauberk ps`"
_BREAKER = "too many calls in flight to this contract from this process: its circuit breaker is open"
_TOO_LARGE = "message larger than a limit: send it in parts, or raise the limit on the side that names it"
_AGE = "the connection reached its age, as each does: reopen the stream with hauberk.resume"
_PARTED = (
    "the peer refused our certificate, its clock is wrong, or it speaks no TLS: run `hauberk doctor {target}`"
    "; or it ended just then"
)
_LOST = (
    "the connection was lost while the call was on its way: who served it ended, was killed or cannot be "
    "reached; it may have been done all the same"
)
_DATES = frozenset({"SVID_EXPIRED", "SVID_NOT_YET_VALID"})
"""Reasons of a peer's guard that are about its clock as much as about our SVID."""

_SILENT = "whoever listens there takes connections and then says nothing: frozen, or overloaded"

_BY_WORDS: tuple[tuple[str, str], ...] = (
    ("xDS channel for server", _NO_CONTROL),
    ("No matching route found", _NO_ROUTE),
    ("could not find VirtualHost", _NO_ROUTE),
    ("Fault injected", _NO_ROUTE),
    ("contains no localities", _NO_ENDPOINT),
    ("empty address list", _NO_ENDPOINT),
    ("no children in weighted_target", _NO_ENDPOINT),
    ("circuit breaker drop", _BREAKER),
    ("larger than max", _TOO_LARGE),
    ("max connection age", _AGE),
    ("max_age", _AGE),
    ("Endpoint closing", _SILENT),
)
"""Words of core in the order they are looked for, and what they mean here."""

_OLD_NEWS = re.compile(r"(last error: .*?) \([LRCE]DS resource .*", re.DOTALL)
"""To a failure of its own core adds what it last heard of each xDS resource, until that changes: days ago."""
_HANDSHAKE = ("handshake", "Handshake", "CERTIFICATE_VERIFY_FAILED", "certificate", "Hostname Verification")
_WRONG_NAME = ("Hostname Verification", "SANs from certificate did not match")
_ON_ITS_WAY = "Stream removed"
"""Of a call over a connection that had been made: whoever refuses a certificate lets none be made."""
_NO_TCP = "Failed to connect to remote host"
_PARTING = ("Socket closed", "Connection reset", "Broken pipe", "tcp handshaker shutdown", "Delayed close")
_MAKES_THEM = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """Explains failed calls of one channel to whoever reads them."""

    credentials: Watch[Credentials]
    target: str | None = None
    """host:port, where the channel has only one."""
    server: SpiffeId | None = None
    """Who is expected there."""
    now: Callable[[], datetime] = utc_now
    clock: SetClock | None = None
    """Knows whether this machine's clock was set."""

    def explain(self, error: grpc.aio.AioRpcError) -> str | None:
        """What to add to the error's details; None where they say enough."""
        if reason_of(error) in _DATES:
            own = self._own_trouble()
            return own or "our svid is good by our own clock: the clock of one of the two is wrong"
        if error.code() not in _MAKES_THEM or _speaks_for_itself(error):
            return None
        said = _OLD_NEWS.sub(r"\1", error.details() or "")
        for words, meaning in _BY_WORDS:
            if words in said:
                return meaning.format(me=self.credentials.value.svid.spiffe_id)
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return self._of_handshake(said)
        return None

    def _of_handshake(self, said: str) -> str | None:
        parted = _is_parting(said)
        if _ON_ITS_WAY in said:
            return _LOST if parted else None
        if not parted and not any(words in said for words in _HANDSHAKE):
            return None
        own = self._own_trouble()
        if own is not None:
            return own
        if any(words in said for words in _WRONG_NAME):
            who = self.server or "the workload that the control plane named"
            return f"the server{self._at()} is not {who}"
        if "CERTIFICATE_VERIFY_FAILED" in said:
            return (
                f"the server{self._at()} shows a certificate that expired or that we have no root for, "
                f"or the clock of one of the two is wrong"
            )
        if parted:
            return _PARTED.format(target=self.target or "HOST:PORT")
        return f"TLS failed{self._at()}: run `hauberk doctor {self.target or 'HOST:PORT'}`"

    def _own_trouble(self) -> str | None:
        """What ails our SVID, bundle or clock; a clock that was set comes first, for it is the cause."""
        was_set = str(self.clock) if self.clock is not None else ""
        found = self_check(self.credentials.value, self.now())
        return ": ".join(part for part in (was_set, found) if part) or None

    def _at(self) -> str:
        return f" at {self.target}" if self.target else ""


def self_check(credentials: Credentials, now: datetime) -> str | None:
    """What is wrong with our own SVID, bundle or clock, so that any peer would refuse us; or None."""
    svid = credentials.svid
    left = svid.remaining(now)
    if left <= timedelta(0):
        return (
            f"our own svid expired {spelled(-left)} ago ({svid.spiffe_id}): it could not be renewed in time, "
            f"or this machine's clock is ahead"
        )
    early = svid.leaf.not_valid_before_utc - now
    if early > timedelta(0):
        return f"our own svid is not valid for another {spelled(early)}: this machine's clock is behind"
    try:
        credentials.bundle.verify(svid.chain, now=now)
    except CertsError as error:
        return f"our own svid does not stand under our own bundle: {error}"
    return None


def is_refusal_of_svid(error: grpc.aio.AioRpcError) -> bool:
    """Whether the peer, whose certificate we accepted, did not accept ours: in the handshake or later."""
    if reason_of(error) in _DATES:
        return True
    said = error.details() or ""
    unproven = any(words in said for words in _HANDSHAKE) or _ON_ITS_WAY in said
    return error.code() is grpc.StatusCode.UNAVAILABLE and not unproven and _is_parting(said)


def _is_parting(said: str) -> bool:
    return _NO_TCP not in said and any(words in said for words in _PARTING)


def reason_of(error: grpc.aio.AioRpcError) -> str | None:
    """The reason in the ErrorInfo of a refusal of ours; None if the status carries none."""
    return reason_in(error.trailing_metadata())


def _speaks_for_itself(error: grpc.aio.AioRpcError) -> bool:
    trailing = error.trailing_metadata()
    return trailing is not None and any(key == DETAILS_KEY for key, _ in trailing)
