"""Demands that are only tried: asked of each call that is let in, and what they would have refused recorded.

They stand behind all that is in force, on the call as that left it, and leave nothing of their own on it but
what they would have said. A deadline is held against how long the call took, once it is over.
"""

from collections.abc import Callable, Sequence
from typing import Any

from hauberk.interceptors.call import Call
from hauberk.interceptors.deadline import Deadline
from hauberk.interceptors.errors import DeadlinePassed, Refused

Check = Callable[[Call], None]
Charge = Callable[[Call, Any], None]


class Tried:
    """What became of one call under demands that were only tried."""

    __slots__ = ("deadline", "reason")

    def __init__(self, reason: str | None, deadline: Deadline | None) -> None:
        self.reason = reason
        """Why it would have been refused; None: it would not."""
        self.deadline = deadline
        """The end it would have had, where that is sooner than its own."""

    def outcome(self, now: float) -> str | None:
        """Why it would not have come to the end it came to at `now` (monotonic seconds); None: it would."""
        if self.reason is None and self.deadline is not None and self.deadline.at < now:
            return DeadlinePassed.reason
        return self.reason


def trying(checks: Sequence[Check]) -> Check:
    """One check that never refuses, of several that do; it sets `call.tried`."""

    def try_out(call: Call) -> None:
        token, deadline, reason = call.token, call.deadline, None
        try:
            for check in checks:
                check(call)
        except Refused as refusal:
            reason = refusal.logged
        sooner = call.deadline
        call.token, call.deadline = token, deadline
        if sooner is not None and deadline is not None and sooner.at >= deadline.at:
            sooner = None
        call.tried = Tried(reason, sooner)

    return try_out


def charging(enforced: Charge | None, tried: Charge | None) -> Charge | None:
    """One charge of the two: what is in force first."""
    if tried is None:
        return enforced

    def charge(call: Call, message: Any) -> None:
        if enforced is not None:
            enforced(call, message)
        if call.tried is None or call.tried.reason is not None:
            return
        try:
            tried(call, message)
        except Refused as refusal:
            call.tried.reason = refusal.logged

    return charge
