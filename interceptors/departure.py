"""What an outgoing call leaves with: what is left of the call being served, its trace, and its token where
its policy says so. The same for both kinds of client.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from hauberk.interceptors.call import Call, current_call, passed_on
from hauberk.interceptors.calls_made import UNSEEN, CallMade, Telemetry
from hauberk.interceptors.deadline import budget
from hauberk.interceptors.demands import Priority
from hauberk.interceptors.errors import Refused, rpc_error
from hauberk.interceptors.metadata import AUTHORIZATION, BUDGET, LONGEST_BUDGET_S, PRIORITY, TO
from hauberk.interceptors.outgoing import Explain
from hauberk.interceptors.tracing import TRACEPARENT, TRACESTATE, TraceContext, carried

MetadataLike = grpc.aio.Metadata | Sequence[tuple[str, str | bytes]]
Pairs = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """What all calls of one channel have in common."""

    explain: Explain | None = None
    """Turns an error into a hint."""
    to: str | None = None
    """The workload that every call is for."""
    trace_ratio: float = 1.0
    """Of the traces that begin here, how many are sampled."""
    telemetry: Telemetry = UNSEEN
    target: str = ""
    """Where the channel goes, as gRPC spells it."""


def departure(
    outbound: Outbound,
    method: str,
    timeout: float | None,
    metadata: MetadataLike | None,
    *,
    contract: str | None = None,
    registered: bool = False,
) -> tuple[float | None, Pairs, CallMade | None]:
    """The seconds and the metadata that a call leaves with, from within the call being served; and who takes
    note of it, if anybody does.

    The token of that one goes along where its policy passes it on to `contract`; None: to nobody. Raises
    AioRpcError DEADLINE_EXCEEDED if no time is left.
    """
    call, now, telemetry = current_call(), time.monotonic(), outbound.telemetry
    trace = _span(call, outbound)
    made = None
    if telemetry.keep is not None:
        made = telemetry.made(method, outbound.target, registered, trace, now)
    try:
        left = budget(timeout, None if call is None else call.deadline, now)
    except Refused as refused:
        error = rpc_error(refused, trace.trace_id)
        if made is not None:
            made.failed(error)
        raise error from None
    leaving, traced = _leaving(metadata or (), trace, _on(call, trace, contract), outbound.to, left)
    if made is not None:
        made.budget_s = left
        made.inherits = left is not None and left != timeout
        if not traced:
            made.trace = None
    return left, leaving, made


def _span(call: Call | None, outbound: Outbound) -> TraceContext:
    """The span a call leaves as: one of its own where that will be told of, else that which it is made in."""
    telemetry = outbound.telemetry
    parent = None if telemetry.around is None else telemetry.around(call)
    if parent is None:
        if call is None:
            return TraceContext.new(outbound.trace_ratio)
        parent = call.trace
    return parent.of_a_call() if telemetry.spans and parent.sampled else parent


def _on(call: Call | None, trace: TraceContext, contract: str | None) -> list[tuple[str, str]]:
    """What goes on from the call being served."""
    if call is None:
        return []
    on = carried(call.metadata, call.trace)
    if trace.trace_id != call.trace.trace_id:
        on = [pair for pair in on if pair[0] != TRACESTATE]
    token = None if contract is None else passed_on(contract)
    if token is not None:
        on.append((AUTHORIZATION, token))
    if call.priority is not Priority.HIGH:
        on.append((PRIORITY, call.priority.name.lower()))
    return on


def _leaving(
    metadata: MetadataLike,
    trace: TraceContext,
    on: Sequence[tuple[str, str]],
    to: str | None,
    left_s: float | None,
) -> tuple[Pairs, bool]:
    """The caller's own metadata, and ours: trace, what goes `on` with it, workload and budget. Whether the
    trace is ours.

    Of trace and token, what the caller set itself stays; a workload or budget it named does not.
    """
    leaving = [pair for pair in metadata if pair[0] != BUDGET and (to is None or pair[0] != TO)]
    own = {key.lower() for key, _ in leaving}
    traced = TRACEPARENT not in own
    if traced:
        leaving.append((TRACEPARENT, trace.header()))
    else:
        own.add(TRACESTATE)
    leaving += [pair for pair in on if pair[0] not in own or pair[0] == PRIORITY]  # the lowest is taken
    if to is not None:
        leaving.append((TO, to))
    if left_s is not None and left_s <= LONGEST_BUDGET_S:
        leaving.append((BUDGET, str(int(left_s * 1000))))
    return tuple(leaving), traced
