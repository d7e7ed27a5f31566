"""What a failed call's status does not say: core's errors, read together with our own certificate and clock.

gRPC tells a caller neither why its certificate was refused nor that its own has expired. These hints are
added to the details of UNAVAILABLE, PERMISSION_DENIED and RESOURCE_EXHAUSTED as core makes them; a status
that carries details of the server's own (google.rpc.Status) explains itself and is left alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from hauberk.certs.credentials import Credentials
from hauberk.certs.errors import CertsError
from hauberk.certs.identity import SpiffeId
from hauberk.certs.watch import Watch
from hauberk.interceptors.errors import DETAILS_KEY, DOMAIN

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
_PARTED = "the peer refused our certificate or speaks no TLS: run `hauberk doctor {target}`"

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

_HANDSHAKE = ("handshake", "Handshake", "CERTIFICATE_VERIFY_FAILED", "certificate", "Hostname Verification")
_WRONG_NAME = ("Hostname Verification", "SANs from certificate did not match")
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
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def explain(self, error: grpc.aio.AioRpcError) -> str | None:
        """What to add to the error's details; None where they say enough."""
        if error.code() not in _MAKES_THEM or _speaks_for_itself(error):
            return None
        said = error.details() or ""
        for words, meaning in _BY_WORDS:
            if words in said:
                return meaning.format(me=self.credentials.value.svid.spiffe_id)
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return self._of_handshake(said)
        return None

    def _of_handshake(self, said: str) -> str | None:
        parted = any(words in said for words in _PARTING)
        if not parted and not any(words in said for words in _HANDSHAKE):
            return None
        own = self_check(self.credentials.value, self.now())
        if own is not None:
            return own
        if any(words in said for words in _WRONG_NAME):
            who = self.server or "the workload that the control plane named"
            return f"the server{self._at()} is not {who}"
        if "CERTIFICATE_VERIFY_FAILED" in said:
            return f"the server{self._at()} shows a certificate that expired or that we have no root for"
        if parted:
            return _PARTED.format(target=self.target or "HOST:PORT")
        return f"TLS failed{self._at()}: run `hauberk doctor {self.target or 'HOST:PORT'}`"

    def _at(self) -> str:
        return f" at {self.target}" if self.target else ""


def self_check(credentials: Credentials, now: datetime) -> str | None:
    """What is wrong with our own SVID, bundle or clock, so that any peer would refuse us; or None."""
    svid = credentials.svid
    left = svid.remaining(now)
    if left <= timedelta(0):
        return (
            f"our own svid expired {_spelled(-left)} ago ({svid.spiffe_id}): it could not be renewed in time"
        )
    early = svid.leaf.not_valid_before_utc - now
    if early > timedelta(0):
        return f"our own svid is not valid for another {_spelled(early)}: this machine's clock is behind"
    try:
        credentials.bundle.verify(svid.chain, now=now)
    except CertsError as error:
        return f"our own svid does not stand under our own bundle: {error}"
    return None


def _spelled(span: timedelta) -> str:
    seconds = span.total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"


def reason_of(error: grpc.aio.AioRpcError) -> str | None:
    """The reason in the ErrorInfo of a refusal of ours; None if the status carries none."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return _reason(value)
    return None


def _reason(serialized: bytes) -> str | None:
    info = ErrorInfo()
    try:
        for detail in Status.FromString(serialized).details:
            if detail.Unpack(info) and info.domain == DOMAIN:
                return str(info.reason)
    except DecodeError:
        pass
    return None


def _speaks_for_itself(error: grpc.aio.AioRpcError) -> bool:
    trailing = error.trailing_metadata()
    return trailing is not None and any(key == DETAILS_KEY for key, _ in trailing)
