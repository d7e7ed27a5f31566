"""The headers a call may bring.

Core enforces its limits only on clients that acknowledged our SETTINGS, and delivers line breaks and NUL as
they came. Sizes are counted as in RFC 9113 section 10.5.1: names and values, and 32 bytes for each. Values
are printable ASCII (grpc/doc/PROTOCOL-HTTP2.md, "ASCII-Value"); those of "-bin" keys are bytes and may be
anything.
"""

import re
from itertools import chain
from typing import Any

from hauberk.interceptors.call import Call
from hauberk.interceptors.demands import Priority
from hauberk.interceptors.errors import MetadataRefused, MetadataTooLarge
from hauberk.interceptors.tracing import TRACEPARENT, Metadata

MAX_BYTES = 8192
TO = "hauberk-to"
"""Names the workload a call is for, where several serve one contract."""
AUTHORIZATION = "authorization"
USER_AGENT = "user-agent"
BUDGET = "hauberk-budget"
"""Whole milliseconds the caller has left. Core's own header, grpc-timeout, may say up to 4 % more: it is
rounded up, and a slightly longer one sent earlier on the connection is sent again to save bytes.
"""
PRIORITY = "hauberk-priority"
"""low, normal or high: that of the call which this one is made for."""
LONGEST_BUDGET_S = 9_999_999
"""What ten digits of milliseconds can say, four months: a call that has longer goes without the header."""

_ENTRY_BYTES = 32
_OURS = "hauberk-"
_PRIORITIES = {each.name.lower(): each for each in Priority}
_BUDGET_DIGITS = 10
_KEY = re.compile(r"[0-9a-z_.-]+")
_USUAL = frozenset({"tracestate", "baggage", "x-request-id", TO})
"""Keys that most calls bring, and of which nothing more is asked."""


def check_metadata(call: Call) -> None:
    """Raise MetadataTooLarge past 8 KiB, MetadataRefused on what a header must not hold or must not be.

    The time left is what the most cautious header says, and the priority the lowest: nobody raises its own.
    The token is the one that there may be.
    """
    # First, and alone: to look at each character of the 16 MiB that core lets through takes 20 ms.
    size = _ENTRY_BYTES * len(call.metadata) + sum(map(len, chain.from_iterable(call.metadata)))
    if size > MAX_BYTES:
        raise MetadataTooLarge(f"metadata of {size} bytes, {MAX_BYTES} are accepted")
    text = "".join([value for _, value in call.metadata if not isinstance(value, bytes)])
    if not _is_printable(text):
        key = next(
            key for key, value in call.metadata if not isinstance(value, bytes) and not _is_printable(value)
        )
        raise MetadataRefused(f"metadata value is not printable: {key!r:.99}", metadata={"key": key})
    traceparents: Metadata = ()
    for key, value in call.metadata:
        if key in _USUAL:
            continue
        if key == TRACEPARENT:
            traceparents = (*traceparents, (key, value))
        elif key == USER_AGENT:
            call.user_agent = value
        elif key == AUTHORIZATION:
            if call.authorization is not None:
                raise MetadataRefused("several authorization headers, one is accepted")
            call.authorization = value if isinstance(value, str) else ""
        elif key == BUDGET:
            _shorten(call, value)
        elif key == PRIORITY:
            _lower(call, value)
        elif not _KEY.fullmatch(key):
            raise MetadataRefused(f"metadata key is not one: {key!r:.99}")
        elif key.startswith(_OURS):
            raise MetadataRefused(f"metadata key is reserved and unknown: {key!r:.99}", metadata={"key": key})
    call.trace.keep(traceparents)


def sendable(metadata: Any) -> tuple[tuple[str, str | bytes], ...]:
    """What of a method's metadata can be sent. Core raises over the rest, and would tell the caller why."""
    try:
        pairs = [(key, value) for key, value in metadata if _KEY.fullmatch(key)]
    except (TypeError, ValueError):
        return ()
    return tuple(
        (key, value)
        for key, value in pairs
        if (
            isinstance(value, bytes)
            if key.endswith("-bin")
            else isinstance(value, str) and _is_printable(value)
        )
    )


def _is_printable(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _shorten(call: Call, value: str | bytes) -> None:
    if isinstance(value, bytes) or len(value) > _BUDGET_DIGITS or not value.isdecimal():
        raise MetadataRefused(f"metadata is not whole milliseconds: {BUDGET!r}", metadata={"key": BUDGET})
    told_s = int(value) / 1000
    if call.time_left_s is None or told_s < call.time_left_s:
        call.time_left_s = told_s


def _lower(call: Call, value: str | bytes) -> None:
    carried = None if isinstance(value, bytes) else _PRIORITIES.get(value)
    if carried is None:
        raise MetadataRefused(f"metadata is no priority: {PRIORITY!r}", metadata={"key": PRIORITY})
    if carried < call.priority:
        call.priority = carried
