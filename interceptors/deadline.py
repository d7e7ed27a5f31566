"""How long a call may take, and what is left of it for the calls it makes.

Instants are `time.monotonic()` seconds. Source: grpc/doc/PROTOCOL-HTTP2.md, "Timeout"; gRFC A16 has no say
here: core enforces the caller's deadline, never a contract's.
"""

from dataclasses import dataclass
from typing import Literal

from hauberk.interceptors.demands import DeadlineRule
from hauberk.interceptors.errors import DeadlinePassed, DeadlineRequired

Bound = Literal["caller", "contract max", "contract default", "first message", "own timeout"]

MARGIN_S = 0.01
"""Kept back from every outgoing call, so that its answer can still be turned into ours."""


@dataclass(slots=True)  # one is made for each call, and a frozen one takes three times as long
class Deadline:
    """An instant (monotonic seconds) and whose bound it is."""

    at: float
    bound: Bound

    def left(self, now: float) -> float:
        """Seconds left at `now`; negative once it has passed."""
        return self.at - now

    def passed(self) -> DeadlinePassed:
        """What to raise once it has passed."""
        return _passed(self.bound)


def admit(caller_s: float | None, rule: DeadlineRule | None, now: float) -> Deadline | None:
    """The sooner of the caller's and the contract's time limits as a fixed instant; None means no limit at
    all.

    `caller_s`: seconds the caller gives, None if it set no deadline. Raises DeadlineRequired if the contract
    wants one, DeadlinePassed if it has already gone: gRPC may deliver a call late.
    """
    if caller_s is None:
        return _contract(rule, now)
    if not caller_s > 0:
        raise _passed("caller")
    if rule is not None and rule.max_s is not None and caller_s > rule.max_s:
        return Deadline(now + rule.max_s, "contract max")
    return Deadline(now + caller_s, "caller")


def budget(
    own_s: float | None, inherited: Deadline | None, now: float, margin_s: float = MARGIN_S
) -> float | None:
    """Seconds an outgoing call may take: the sooner of `own_s` and what is left of the call being served.

    `margin_s` is kept back from the latter. None means no limit. Raises DeadlinePassed if nothing is left:
    core would send such a call, and most of them would even succeed.
    """
    if own_s is not None and not own_s > 0:
        raise _passed("own timeout")
    if inherited is None:
        return own_s
    left = inherited.left(now) - margin_s
    if left <= 0:
        raise inherited.passed()
    return left if own_s is None else min(own_s, left)


def _contract(rule: DeadlineRule | None, now: float) -> Deadline | None:
    if rule is None:
        return None
    if rule.required:
        raise DeadlineRequired("method requires a deadline and the call has none")
    if rule.default_s is not None:
        return Deadline(now + rule.default_s, "contract default")
    if rule.max_s is not None:
        return Deadline(now + rule.max_s, "contract max")
    return None


def _passed(bound: Bound) -> DeadlinePassed:
    return DeadlinePassed(f"deadline passed: {bound}", metadata={"bound": bound})
