"""One RPC being served: who calls what, until when, in which trace."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from hauberk.certs.identity import LeafIdentity
from hauberk.interceptors.deadline import Deadline
from hauberk.interceptors.errors import Refused
from hauberk.interceptors.policy import Policy
from hauberk.interceptors.token import Token
from hauberk.interceptors.tracing import Metadata, TraceContext

if TYPE_CHECKING:
    from hauberk.interceptors.trying import Tried


class Call:
    """What arrived, and what the checks found out about it (`peer`, `deadline`, `token`).

    `started` is monotonic seconds; `time_left_s` what the caller's deadline left at arrival, None without
    one. `peer` is None only where the method is anonymous and no certificate was shown.
    """

    __slots__ = (
        "address",
        "admitted_by",
        "auth_context",
        "authorization",
        "deadline",
        "ended",
        "metadata",
        "method",
        "peer",
        "policy",
        "priority",
        "received",
        "sent",
        "slot",
        "started",
        "time_left_s",
        "token",
        "trace",
        "tried",
        "user_agent",
    )

    def __init__(
        self,
        *,
        method: str,
        policy: Policy,
        metadata: Metadata,
        trace: TraceContext,
        started: float,
        time_left_s: float | None,
        auth_context: Mapping[str, Iterable[bytes]],
        address: str,
    ) -> None:
        self.method = method
        self.policy = policy
        self.metadata = metadata
        self.trace = trace
        self.started = started
        self.time_left_s = time_left_s
        self.auth_context = auth_context
        self.address = address
        self.peer: LeafIdentity | None = None
        self.deadline: Deadline | None = None
        self.admitted_by: str | None = None
        """The entry of `callers` that lets its caller in; see authorization.py."""
        self.priority = policy.priority
        """The lower of the method's and what the caller said."""
        self.authorization: str | None = None
        """The header of that name, nobody's word yet."""
        self.token: Token | None = None
        """Who the call is made for, and what that one may; None where the contract asks for no token."""
        self.ended: Refused | None = None
        """Why it was cancelled before its end, if it was; see standing.py."""
        self.slot: str | None = None
        """Whose place in flight the call takes; see in_flight.py."""
        self.user_agent: str | bytes | None = None
        self.tried: Tried | None = None
        """What demands that are only tried would have made of it; None: there are none."""
        self.received = self.sent = 0
        """Bytes of the messages so far, as serialised."""

    @property
    def caller(self) -> str:
        """What it is counted by: its SPIFFE ID, or its address where it shows no certificate."""
        return self.address.rpartition(":")[0] if self.peer is None else str(self.peer.spiffe_id)


_current: ContextVar[Call | None] = ContextVar("hauberk_call", default=None)


def current_call() -> Call | None:
    """The call this code serves, also in tasks the method started; None outside of one."""
    return _current.get()


def passed_on(contract: str) -> str | None:
    """The authorization header that calls of `contract` leave with: that of the call being served, where its
    policy says so.
    """
    call = _current.get()
    if call is None or call.policy.token is None:
        return None
    return call.authorization if contract in call.policy.token.pass_on else None


def enter_call(call: Call) -> None:
    """Make `call` the current one for the rest of this task, which core starts for it alone."""
    _current.set(call)


@contextmanager
def within_call(call: Call) -> Iterator[None]:
    """Make `call` the current one for the length of a block."""
    before = _current.set(call)
    try:
        yield
    finally:
        _current.reset(before)
