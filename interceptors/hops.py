"""Where the time of a call went that came too late: hop by hop, as far as is known, for its caller to read.

Each server names itself by the method that was called and what that had when it arrived, and then what the
server behind it said of the same, or, if that said nothing in time, which method was waited for and what that
was given:

    shop.orders.v1.Orders/PlaceOrder 1707 ms -> shop.catalog.v1.Catalog/GetProduct 1200 ms

It is the margin that each hop keeps back (deadline.py) that lets its word arrive before its caller gives up.
Which methods are called behind a method is told to callers of the mesh alone: whoever shows no certificate,
or one of another trust domain, learns what its own call had and spent.
"""

import re
import time
from typing import Any

from google.rpc.error_details_pb2 import ErrorInfo

from hauberk.interceptors.call import Call
from hauberk.interceptors.error_info import error_info
from hauberk.interceptors.errors import DeadlinePassed

HOPS = "hops"
"""Of ErrorInfo.metadata: the chain, the caller's own call first."""
SPENT_IN = "spent_in"
"""The last of it, where there are several."""
_ARROW = " -> "
_LEFT_OUT = "..."
_LONGEST = 256
"""What a fact of ErrorInfo may have."""
_HOP = r"[A-Za-z0-9_.]{1,200}(?:/[A-Za-z0-9_]{1,100})? [0-9]{1,10} ms"
_CHAIN = re.compile(rf"{_HOP}(?: -> (?:{_HOP}|\.\.\.)){{0,20}}", re.ASCII)


def hop(method: str, had_s: float | None) -> str:
    """One of them: `method` is a path, `had_s` what the call of it had. Empty where that was no limit."""
    return "" if had_s is None else f"{method.removeprefix('/')} {max(0, round(had_s * 1000))} ms"


def hops_behind(error: Any) -> str:
    """What the error of an outgoing call says of where its time went: its callee's word, or else only which
    call it was. Nothing of a callee's word is believed that is no such chain.
    """
    info = error_info(error.trailing_metadata())
    told = "" if info is None else hops_in(info)
    return told or str(getattr(error, "hop", ""))


def hops_in(info: ErrorInfo) -> str:
    """The chain that a refusal tells of; empty where it has none that is one."""
    told = info.metadata.get(HOPS, "")
    return told if len(told) <= _LONGEST and _CHAIN.fullmatch(told) else ""


def accounted(late: DeadlinePassed, call: Call) -> DeadlinePassed:
    """The refusal with what the caller may know of where the time of `call` went."""
    if call.deadline is None:
        return late
    had_s = call.deadline.at - call.started
    facts = {
        "budget_ms": f"{had_s * 1000:.0f}",
        "spent_ms": f"{(time.monotonic() - call.started) * 1000:.0f}",
    }
    message = late.message
    own = hop(call.method, had_s)
    if _is_of_the_mesh(call) and _CHAIN.fullmatch(own):
        behind = late.behind or getattr(late.__cause__, "hop", "")  # its method was cancelled as it waited
        chain = _bounded([own, *(behind.split(_ARROW) if behind else ())])
        facts[HOPS] = _ARROW.join(chain)
        if behind:  # else it may as well have been the caller, who did not send or read
            facts[SPENT_IN] = chain[-1].partition(" ")[0]
            message = f"{message}; spent in {facts[SPENT_IN]}"
    return DeadlinePassed(message, metadata={**late.metadata, **facts})


def _bounded(chain: list[str]) -> list[str]:
    """`chain`, or the ends of one that is too long to be told."""
    return chain if len(_ARROW.join(chain)) <= _LONGEST else [chain[0], _LEFT_OUT, chain[-1]]


def _is_of_the_mesh(call: Call) -> bool:
    """Whether the caller is of our own trust domain. It was admitted; unless an entry of `callers` spells
    its domain out, by one that means ours. What serves anybody does not ask.
    """
    if call.peer is None or call.policy.anonymous:
        return False
    domain = call.peer.spiffe_id.trust_domain
    return all(pattern.trust_domain != domain for pattern in call.policy.callers)
