"""One method's policy as the checks it needs, compiled once.

A check is any function of a Call that raises Refused. It works on memory and never awaits, so that an asyncio
and a threaded server can share it (audit alone writes a line to a file). The order, after the trace (which
sees refusals too): peer, metadata, in flight, callers, deadline, token, what the token claims, quota, what is
only tried, audit. Cheap and certain things first; nothing of the message is read before all have passed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from google.protobuf.descriptor import Descriptor

from hauberk.interceptors.audit import AuditLog
from hauberk.interceptors.authorization import callers_check, claims_check
from hauberk.interceptors.call import Call
from hauberk.interceptors.deadline import admit
from hauberk.interceptors.errors import PolicyError, UnknownMethod
from hauberk.interceptors.in_flight import InFlight
from hauberk.interceptors.metadata import check_metadata
from hauberk.interceptors.peer import PeerCheck
from hauberk.interceptors.policy import BUILT_IN, Policy
from hauberk.interceptors.quota import Charge, Quotas
from hauberk.interceptors.token_check import Tokens
from hauberk.interceptors.trying import charging, trying

Check = Callable[[Call], None]
Step = tuple[str, Check]
"""A check and the demand that it asks for, by its name in policy.proto; or what every call is asked for."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The checks one method's calls go through, in order."""

    policy: Policy
    checks: tuple[Check, ...]
    charge: Charge | None = None
    """What remains to be asked when the message of a unary call has been read."""
    steps: tuple[Step, ...] = ()
    """The checks by name; of those only tried, each by itself, as "shadow token"."""

    @classmethod
    def of(
        cls,
        policy: Policy,
        *,
        peer_check: PeerCheck,
        in_flight: InFlight,
        quotas: Quotas,
        trust_domain: str,
        tokens: Tokens | None = None,
        audit: AuditLog | None = None,
        request: Descriptor | None = None,
    ) -> Self:
        """The pipeline of `policy`; `trust_domain` is the one bare paths in `callers` belong to.

        `request` describes the messages that callers send; None: nothing does. Raises PolicyError for a
        demand that is not enforced here, and for a token without `tokens`.
        """
        if policy.audit and audit is None:
            raise PolicyError(f"{policy.method} is to be audited, and there is no audit log here")
        check_quota, charge = quotas.check(policy, request)
        enforced: list[Step] = [
            ("peer", _peer(peer_check, required=not policy.anonymous)),
            ("metadata", check_metadata),
            ("in flight", in_flight.enter),
            ("callers", callers_check(policy, trust_domain)),
            ("deadline", _deadline(policy)),
            *_token(policy, tokens),
            *((("quota", check_quota),) if check_quota else ()),
        ]
        tried, tried_charge = _tried(policy, quotas, trust_domain, tokens, request)
        audited = [("audit", audit.begin)] if policy.audit and audit is not None else []
        return cls(
            policy,
            (
                *(check for _, check in enforced),
                *((trying([check for _, check in tried]),) if policy.tried else ()),
                *(check for _, check in audited),
            ),
            charging(charge, tried_charge),
            (*enforced, *((f"shadow {name}", check) for name, check in tried), *audited),
        )

    @classmethod
    def of_unknown(cls, *, peer_check: PeerCheck, in_flight: InFlight) -> Self:
        """The pipeline of methods nobody serves: whoever has no name learns not even that."""
        return cls(
            Policy(method="", origin=BUILT_IN),
            (_peer(peer_check, required=True), check_metadata, in_flight.enter, _unknown),
        )

    def admit(self, call: Call) -> None:
        """Let `call` through, or raise Refused. It may hold a place in flight either way."""
        for check in self.checks:
            check(call)


def _peer(peer_check: PeerCheck, *, required: bool) -> Check:
    def check_peer(call: Call) -> None:
        call.peer = peer_check.identify(call.auth_context, required=required)

    return check_peer


def _deadline(policy: Policy) -> Check:
    rule = policy.deadline

    def check_deadline(call: Call) -> None:
        call.deadline = admit(call.time_left_s, rule, call.started)

    return check_deadline


def _token(policy: Policy, tokens: Tokens | None, *, tried: bool = False) -> tuple[Step, ...]:
    if policy.token is None:
        return ()
    if tokens is None:
        raise PolicyError(
            f"{policy.method} demands a token, but this process believes no issuer: name a file with "
            "[tokens.NAME] tables in HAUBERK_TOKEN_ISSUERS; for hauberk up, write them into mesh.toml"
        )
    return (("token", tokens.check(policy.token, tried=tried)), *claims_check(policy))


def _tried(
    policy: Policy, quotas: Quotas, trust_domain: str, tokens: Tokens | None, request: Descriptor | None
) -> tuple[list[Step], Charge | None]:
    """The checks of what is only tried, in the same order."""
    shadow = policy.shadow
    if shadow is None:
        return [], None
    steps: list[Step] = []
    charge: Charge | None = None
    if "callers" in policy.tried:
        steps.append(("callers", callers_check(shadow, trust_domain)))
    if "deadline" in policy.tried:
        steps.append(("deadline", _deadline(shadow)))
    if "token" in policy.tried:
        steps.extend(_token(shadow, tokens, tried=True))
    if "quota" in policy.tried:
        check_quota, charge = quotas.check(shadow, request, tried=True)
        steps += [("quota", check_quota)] if check_quota else []
    return steps, charge


def _unknown(call: Call) -> None:
    raise UnknownMethod("no such method")
