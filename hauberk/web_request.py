"""A web request as the call being served: what it has left, its trace, and its user's token go on from it.

The calls made while it is answered inherit them as from a gRPC call. Nothing is refused here and nothing is
cut off: that is the business of who serves the web.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from hauberk.interceptors.call import Call
from hauberk.interceptors.deadline import Deadline
from hauberk.interceptors.demands import TokenRule
from hauberk.interceptors.metadata import AUTHORIZATION
from hauberk.interceptors.policy import Policy
from hauberk.interceptors.tracing import BAGGAGE, TRACEPARENT, TRACESTATE, TraceContext

DEADLINE_S = 30.0

_MILLISECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)
_BEARER = re.compile(r"bearer [!-~]+", re.ASCII | re.IGNORECASE)

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebRequests:
    """How the requests of one application become calls."""

    deadline_s: float = DEADLINE_S
    """What a request has at most, for all the calls it makes."""
    deadline_header: str | None = None
    """A header, in lower case, of whole milliseconds that shorten it: one that a proxy of ours sets (Envoy:
    x-envoy-expected-rq-timeout-ms).
    """
    pass_token_to: tuple[str, ...] = ()
    """Contracts that are called with the user's token, by full name; nobody has looked at it before them."""
    policy: Policy = field(init=False)

    def __post_init__(self) -> None:
        if not self.deadline_s > 0:
            raise ValueError(f"a request needs some time: deadline_s {self.deadline_s}")
        token = TokenRule(bound=False, pass_on=self.pass_token_to)
        object.__setattr__(self, "policy", Policy(method="", origin="web", token=token))

    @property
    def wanted(self) -> frozenset[str]:
        """The headers that matter here."""
        own = [self.deadline_header] if self.deadline_header else []
        return frozenset({TRACEPARENT, TRACESTATE, BAGGAGE, AUTHORIZATION, *own})

    def call(self, method: str, headers: Headers, address: str) -> Call:
        """The request as a call that is being served from now on; `headers` as they came, in lower case."""
        started = time.monotonic()
        left = min([self.deadline_s, *self._told(headers)])
        token = _token(headers)
        call = Call(
            method=method,
            policy=self.policy,
            metadata=(*token, *(pair for pair in headers if pair[0] in (TRACESTATE, BAGGAGE))),
            trace=TraceContext.arriving(headers),
            started=started,
            time_left_s=left,
            auth_context={},
            address=address,
        )
        call.deadline = Deadline(started + left, "caller")
        call.authorization = token[0][1] if token else None
        return call

    def _told(self, headers: Headers) -> Iterable[float]:
        for name, value in headers:
            if name == self.deadline_header and _MILLISECONDS.fullmatch(value):
                yield int(value) / 1000


def _token(headers: Headers) -> Headers:
    """The bearer token, if there is exactly one: two are as good as none."""
    found = [value for name, value in headers if name == AUTHORIZATION]
    return ((AUTHORIZATION, found[0]),) if len(found) == 1 and _BEARER.fullmatch(found[0]) else ()
