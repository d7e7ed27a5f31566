"""Who may call a method: its `callers` and nobody else, for whom its `token` speaks."""

from collections.abc import Callable, Mapping
from typing import Any

from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.call import Call
from hauberk.interceptors.demands import ClaimRule
from hauberk.interceptors.errors import Forbidden, Unidentified
from hauberk.interceptors.policy import Policy

ANYONE = "anonymous"
"""What admits the callers of a method that says so."""

_REMEMBERED = 1024
"""Callers whose answer one method keeps; all are forgotten when there are more."""


def callers_check(policy: Policy, trust_domain: str) -> Callable[[Call], None]:
    """The check that `policy` lets the caller in, in a mesh of `trust_domain`. It raises Forbidden."""
    if policy.anonymous:
        return _anyone
    answers: dict[SpiffeId, str] = {}

    def check_callers(call: Call) -> None:
        if call.peer is None:
            raise Unidentified("no certificate was shown", reason="NO_CERTIFICATE")
        caller = call.peer.spiffe_id
        admitted = answers.get(caller)
        if admitted is None:
            if len(answers) >= _REMEMBERED:
                answers.clear()
            admitted = answers[caller] = str(policy.admitting(caller, trust_domain) or "")
        if not admitted:
            raise Forbidden(f"{caller} may not call {call.method}", metadata={"caller": str(caller)[:256]})
        call.admitted_by = admitted

    return check_callers


def claims_check(policy: Policy) -> tuple[tuple[str, Callable[[Call], None]], ...]:
    """The checks that the call's token, which is there and good, has the roles, scopes and claims that are
    demanded, each with its name in policy.proto. They raise Forbidden, and name what is missing: the contract
    is no secret.
    """
    rule = policy.token
    if rule is None:
        return ()
    checks = [("claims", _claim_check(claim)) for claim in rule.claims]
    if rule.scopes:
        checks.insert(0, ("scopes", _scopes_check(frozenset(rule.scopes))))
    if rule.roles:
        checks.insert(0, ("roles", _roles_check(frozenset(rule.roles))))
    return tuple(checks)


def _roles_check(roles: frozenset[str]) -> Callable[[Call], None]:
    needed = ", ".join(sorted(roles))

    def check_roles(call: Call) -> None:
        if call.token is None or roles.isdisjoint(call.token.roles):
            raise Forbidden(
                f"token has none of the roles {needed}", reason="ROLE_MISSING", metadata={"roles": needed}
            )

    return check_roles


def _scopes_check(scopes: frozenset[str]) -> Callable[[Call], None]:
    needed = " ".join(sorted(scopes))

    def check_scopes(call: Call) -> None:
        if call.token is None or not scopes <= call.token.scopes:
            raise Forbidden(
                f"token has not all of the scopes {needed}",
                reason="SCOPE_MISSING",
                metadata={"scopes": needed},
            )

    return check_scopes


def _claim_check(rule: ClaimRule) -> Callable[[Call], None]:
    names, values = rule.path.split("."), frozenset(rule.values)
    needed = f"{rule.path} = {' | '.join(rule.values)}" if values else rule.path

    def check_claim(call: Call) -> None:
        found = None if call.token is None else _claim(call.token.claims, names)
        held = found if isinstance(found, tuple) else (found,)
        if found is None or (values and values.isdisjoint(map(_spelled, held))):
            raise Forbidden(
                f"token has not the claim {needed}", reason="CLAIM_MISSING", metadata={"claim": rule.path}
            )

    return check_claim


def _claim(claims: Mapping[str, Any], names: list[str]) -> Any:
    """What stands under these names, each inside the one before it; None if nothing does."""
    found: Any = claims
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _spelled(value: Any) -> str | None:
    """A single value as a contract writes it: text as it is, a whole number or boolean as JSON has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else None


def _anyone(call: Call) -> None:
    call.admitted_by = ANYONE
