"""What an error means for the caller: the end of a call, however it is served."""

import logging
import time
from typing import Any

from hauberk.interceptors.call import Call
from hauberk.interceptors.deadline import MARGIN_S
from hauberk.interceptors.errors import (
    DETAILS_KEY,
    DeadlinePassed,
    Refused,
    Status,
    is_deadline_exceeded,
    status_of,
)
from hauberk.interceptors.failures import told
from hauberk.interceptors.hops import accounted, hops_behind
from hauberk.interceptors.metadata import sendable
from hauberk.interceptors.scrubbing import secrets_in
from hauberk.interceptors.servant import has_failed

_log = logging.getLogger(__name__)


def refusal_of(error: BaseException, call: Call) -> BaseException:
    """What `error` means for the caller: a lone error in a group is the error itself, and when a call made on
    this one's budget ran out of time, so has this one.
    """
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    deadline = call.deadline
    if deadline and is_deadline_exceeded(error) and deadline.left(time.monotonic()) <= 2 * MARGIN_S:
        late = deadline.passed()
        late.behind = hops_behind(error)
        return late
    return error


def told_of(error: BaseException, call: Call) -> str:
    """For our log: without what the caller brought to prove itself."""
    return told(error, secrets_in(call.metadata))


def unsendable(error: BaseException, call: Call) -> Status:
    """The status in place of one that a method made so that core cannot send it."""
    trace_id = call.trace.trace_id
    _log.error("%s cannot end as it wished, trace %s", call.method, trace_id, exc_info=error)
    return status_of(error, trace_id)


def last_word(refusal: BaseException, call: Call, context: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    """Code, message and trailers that `refusal` ends the call with; what only we may know goes to the log."""
    trailers = sendable(context.trailing_metadata() or ())
    if not isinstance(refusal, Refused):
        _log.error("%s failed, trace %s: %s", call.method, call.trace.trace_id, told_of(refusal, call))
        if has_failed(context):  # a status the method set goes out unchanged; the exception's text never does
            return context.code(), context.details(), trailers
    if isinstance(refusal, DeadlinePassed):
        refusal = accounted(refusal, call)
    status = status_of(refusal, call.trace.trace_id)
    others = tuple(pair for pair in trailers if pair[0] != DETAILS_KEY)
    return status.code, status.message, (*others, *status.trailers)
