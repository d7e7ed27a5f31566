"""Who may call a method: its `callers`, and nobody else."""

from collections.abc import Callable

from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.call import Call
from hauberk.interceptors.errors import Forbidden, Unidentified
from hauberk.interceptors.policy import Policy

_REMEMBERED = 1024
"""Callers whose answer one method keeps; all are forgotten when there are more."""


def callers_check(policy: Policy, trust_domain: str) -> Callable[[Call], None]:
    """The check that `policy` lets the caller in, in a mesh of `trust_domain`. It raises Forbidden."""
    if policy.anonymous:
        return _anyone
    answers: dict[SpiffeId, bool] = {}

    def check_callers(call: Call) -> None:
        if call.peer is None:
            raise Unidentified("no certificate was shown", reason="NO_CERTIFICATE")
        caller = call.peer.spiffe_id
        admitted = answers.get(caller)
        if admitted is None:
            if len(answers) >= _REMEMBERED:
                answers.clear()
            admitted = answers[caller] = policy.admits(caller, trust_domain)
        if not admitted:
            raise Forbidden(f"{caller} may not call {call.method}", metadata={"caller": str(caller)[:256]})

    return check_callers


def _anyone(call: Call) -> None:
    pass
