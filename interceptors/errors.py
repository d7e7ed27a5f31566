"""Why a call was refused, and the one table that turns an error into a gRPC status.

    PolicyError             the contract's author is wrong: raised at start, never by a call
    Refused                 the call is refused; a method may raise it too
      Unidentified          UNAUTHENTICATED      we do not know who calls
        TokenRefused        UNAUTHENTICATED      a token that is not good; why stands in our log alone
      TokenChecksSpent      RESOURCE_EXHAUSTED   too many tokens of this peer were not good
      Forbidden             PERMISSION_DENIED    we do, and no
      DeadlinePassed        DEADLINE_EXCEEDED    too late; says whose bound it was
      DeadlineRequired      FAILED_PRECONDITION  the contract wants a deadline, the call has none
      MetadataRefused       INVALID_ARGUMENT     headers we will not pass on
        MetadataTooLarge    RESOURCE_EXHAUSTED
      MessageUnreadable     INVALID_ARGUMENT     bytes that are no message of the method's type
      MessageInvalid        INVALID_ARGUMENT     fields that break the rules of the contract; says which
      MessageTooLarge       RESOURCE_EXHAUSTED   more bytes than the contract lets in
      TooManyItems          RESOURCE_EXHAUSTED   more sub-messages and list elements than it lets in
      MessageMissing        UNIMPLEMENTED        a unary call that ended without a message
      UnknownMethod         UNIMPLEMENTED
      TooManyInFlight       RESOURCE_EXHAUSTED
      RepliesUnread         RESOURCE_EXHAUSTED   this caller has to read what it was sent first
      QuotaSpent            RESOURCE_EXHAUSTED   not so often; says which quota, and how long to wait
      Draining              UNAVAILABLE          this process is leaving
      AuditUnwritable       UNAVAILABLE          what this method does has to be written down, and cannot be
      MemoryShort           UNAVAILABLE          this process uses as much memory as it may
      Overloaded            UNAVAILABLE          this process has more to do than it can, and others go first
      IdentityUnfit         UNAVAILABLE          this process has no certificate that is good now
      ChannelClosed         UNAVAILABLE          our own channel was closed under the call
      ServerRevoked         UNAVAILABLE          whom we would call is refused by the mesh
    RuleFailed              INTERNAL             a rule of the contract that has no answer: its author's error

Source: google.rpc.Status, google.rpc.ErrorInfo (AIP-193); grpc/doc/statuscodes.md; gRFC A6, "Pushback".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus

DOMAIN = "hauberk"
"""The `domain` of every ErrorInfo of ours."""

DETAILS_KEY = "grpc-status-details-bin"

PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""How long core waits before it repeats the call, where the contract lets it; never, if that is negative."""

_MAX_PUSHBACK_MS = 2**31 - 1
"""What core reads; it takes more for a ban."""
_MAX_FACT = 256
"""Characters of one fact in ErrorInfo: trailers have to fit into the caller's metadata limit."""
_MAX_MESSAGE = 1024
"""Characters of a message, which is sent twice: as it is, and in the details."""
_MAX_DETAILS = 4096
"""Bytes of further details. The refusal itself would be lost with trailers that do not fit."""

_NOTHING: Mapping[str, str] = MappingProxyType({})


class PolicyError(Exception):
    """A contract that cannot be enforced: the server must not start with it."""


class RuleFailed(Exception):
    """A rule of the contract that has no answer for a message: INTERNAL, since its author is wrong."""


class Refused(Exception):
    """A call refused with a status, a machine-readable reason (UPPER_SNAKE) and facts about it.

    Message, reason and facts reach the caller as they are, cut where they are too long for trailers; so do
    `details`, messages of google.rpc beside our ErrorInfo, as far as they fit in whole. `retry_after_s` says
    how long it has to wait until it may be let in; inf: the same call never will be.
    """

    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = "REFUSED"
    message = ""
    metadata: Mapping[str, str] = _NOTHING
    retry_after_s: float | None = None
    details: tuple[Message, ...] = ()

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        status: grpc.StatusCode | None = None,
        metadata: Mapping[str, str] = _NOTHING,
        retry_after_s: float | None = None,
        details: tuple[Message, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status or type(self).status
        self.reason = reason or type(self).reason
        self.metadata = metadata
        self.retry_after_s = retry_after_s
        self.details = details
        if self.status is grpc.StatusCode.OK:
            raise ValueError("a refusal cannot have the status OK")

    @property
    def logged(self) -> str:
        """The reason as our own log has it."""
        return self.reason


class Unidentified(Refused):
    status = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNIDENTIFIED"


class TokenRefused(Unidentified):
    reason = "TOKEN_REFUSED"

    def __init__(self, found: str) -> None:
        """`found`, UPPER_SNAKE, is what is wrong with it: not for whoever tries tokens."""
        super().__init__("access token refused")
        self.found = found

    @property
    def logged(self) -> str:
        return self.found


class TokenChecksSpent(Refused):
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "TOKEN_CHECKS_SPENT"


class Forbidden(Refused):
    status = grpc.StatusCode.PERMISSION_DENIED
    reason = "CALLER_NOT_ALLOWED"


class DeadlinePassed(Refused):
    status = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_PASSED"
    behind = ""
    """What is known of the calls that were waited for: see hops.py."""


class DeadlineRequired(Refused):
    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = "DEADLINE_REQUIRED"


class MetadataRefused(Refused):
    status = grpc.StatusCode.INVALID_ARGUMENT
    reason = "METADATA_REFUSED"


class MetadataTooLarge(MetadataRefused):
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "METADATA_TOO_LARGE"


class MessageUnreadable(Refused):
    status = grpc.StatusCode.INVALID_ARGUMENT
    reason = "MESSAGE_UNREADABLE"


class MessageInvalid(Refused):
    status = grpc.StatusCode.INVALID_ARGUMENT
    reason = "MESSAGE_INVALID"


class MessageTooLarge(Refused):
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "MESSAGE_TOO_LARGE"


class TooManyItems(Refused):
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_ITEMS"


class MessageMissing(Refused):
    status = grpc.StatusCode.UNIMPLEMENTED
    reason = "MESSAGE_MISSING"


class UnknownMethod(Refused):
    status = grpc.StatusCode.UNIMPLEMENTED
    reason = "UNKNOWN_METHOD"


class TooManyInFlight(Refused):
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_IN_FLIGHT"


class RepliesUnread(Refused):
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "REPLIES_UNREAD"


class QuotaSpent(Refused):
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "QUOTA_SPENT"


class Draining(Refused):
    status = grpc.StatusCode.UNAVAILABLE
    reason = "DRAINING"


class AuditUnwritable(Refused):
    status = grpc.StatusCode.UNAVAILABLE
    reason = "AUDIT_UNWRITABLE"


class MemoryShort(Refused):
    status = grpc.StatusCode.UNAVAILABLE
    reason = "MEMORY_SHORT"


class Overloaded(Refused):
    status = grpc.StatusCode.UNAVAILABLE
    reason = "OVERLOADED"


class IdentityUnfit(Refused):
    status = grpc.StatusCode.UNAVAILABLE
    reason = "IDENTITY_UNFIT"


class ChannelClosed(Refused):
    status = grpc.StatusCode.UNAVAILABLE
    reason = "CHANNEL_CLOSED"


class ServerRevoked(Refused):
    status = grpc.StatusCode.UNAVAILABLE
    reason = "SERVER_REVOKED"


@dataclass(frozen=True, slots=True)
class Status:
    """What goes on the wire: a code, a line of text, a serialised google.rpc.Status, and how long to wait."""

    code: grpc.StatusCode
    message: str
    details: bytes
    retry_after_s: float | None = None

    @property
    def trailers(self) -> tuple[tuple[str, str | bytes], ...]:
        """As trailing metadata."""
        details = (DETAILS_KEY, self.details)
        return (
            (details,)
            if self.retry_after_s is None
            else (details, (PUSHBACK_KEY, _pushback(self.retry_after_s)))
        )


def status_of(error: BaseException, trace_id: str | None = None) -> Status:
    """The status of any error. Only a Refused is told to the caller; the rest is INTERNAL and a trace id.

    What really happened then stands in our log beside that id: an exception's text may hold anything.
    """
    facts = {} if trace_id is None else {"trace_id": trace_id}
    if isinstance(error, Refused):
        facts = {**error.metadata, **facts}
        return _status(error.status, error.message, error.reason, facts, error.details, error.retry_after_s)
    message = "internal error" if trace_id is None else f"internal error {trace_id}"
    return _status(grpc.StatusCode.INTERNAL, message, "INTERNAL", facts)


def rpc_error(error: BaseException, trace_id: str | None = None) -> grpc.aio.AioRpcError:
    """What a stub raises when its call is refused here, before it was sent or after its channel closed."""
    status = status_of(error, trace_id)
    return grpc.aio.AioRpcError(
        status.code,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(*status.trailers),
        details=status.message,
        debug_error_string="refused on the caller's side",
    )


def is_deadline_exceeded(error: BaseException) -> bool:
    """Whether `error` is what a stub raises when a call's time was up: a blocking one's is itself a call."""
    code = getattr(error, "code", None) if isinstance(error, grpc.RpcError) else None
    return callable(code) and code() is grpc.StatusCode.DEADLINE_EXCEEDED


def _status(
    code: grpc.StatusCode,
    message: str,
    reason: str,
    facts: Mapping[str, str],
    further: tuple[Message, ...] = (),
    retry_after_s: float | None = None,
) -> Status:
    message = _spelled(message, _MAX_MESSAGE)
    told = {_spelled(key, _MAX_FACT): _spelled(value, _MAX_FACT) for key, value in facts.items()}
    details = RpcStatus(code=code.value[0], message=message)
    details.details.add().Pack(ErrorInfo(reason=_spelled(reason, _MAX_FACT), domain=DOMAIN, metadata=told))
    if retry_after_s is not None and retry_after_s < math.inf:
        retry = RetryInfo()
        retry.retry_delay.FromMicroseconds(math.ceil(retry_after_s * 1e6))
        details.details.add().Pack(retry)
    room = _MAX_DETAILS
    for detail in further:
        room -= detail.ByteSize()
        if room >= 0:
            details.details.add().Pack(detail)
    return Status(code, message, details.SerializeToString(), retry_after_s)


def _pushback(retry_after_s: float) -> str:
    if retry_after_s == math.inf:
        return "-1"
    return str(min(math.ceil(retry_after_s * 1000), _MAX_PUSHBACK_MS))


def _spelled(text: object, longest: int) -> str:
    """As protobuf takes it: nothing that a method puts into its refusal may become another error."""
    try:
        return str(text)[:longest].encode("utf-8", "replace").decode()
    except Exception:
        return "?"
