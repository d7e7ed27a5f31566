"""The policies that replicas enforce, contract and overrides together, for operators to see."""

from collections.abc import Iterator

from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.overrides import Override
from hauberk.interceptors.policy import Policy
from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.services.control.overriding import Overriding
from hauberk.services.control.roster import Roster
from hauberk.services.control.snapshot import Contract

_ORIGINS = {"method": "method option", "service": "service defaults"}


def listed(roster: Roster, overriding: Overriding, wanted: str) -> Iterator[admin_pb2.MethodPolicy]:
    """Of the service or method `wanted` (all, if it is empty) each policy alive, with who enforces it.

    Of a contract that nobody serves now, the policy that its next replica will enforce.
    """
    for spiffe_id, announced in roster.contracts():
        contract = announced.contract
        replicas = _replicas(roster, spiffe_id, contract)
        for policy in contract.methods.values():
            if wanted in ("", contract.service, policy.method):
                yield from _alike(policy, contract, spiffe_id, replicas, overriding)


def _replicas(roster: Roster, spiffe_id: SpiffeId, contract: Contract) -> list[str]:
    return [
        each.replica
        for each in roster.replicas()
        if each.spiffe_id == spiffe_id and each.policy_versions.get(contract.service) == contract.version
    ]


def _alike(
    policy: Policy, contract: Contract, spiffe_id: SpiffeId, replicas: list[str], overriding: Overriding
) -> Iterator[admin_pb2.MethodPolicy]:
    """One entry for all replicas whose override of the method is the same."""
    alike: dict[Policy, list[str]] = {}
    for replica in replicas:
        override = overriding.enforced(spiffe_id, replica).by_method.get(policy.method)
        alike.setdefault(_over(policy, override), []).append(f"{spiffe_id}#{replica}")
    if not replicas:
        alike = {_over(policy, overriding.in_force.by_method.get(policy.method)): []}
    for found, names in alike.items():
        yield admin_pb2.MethodPolicy(
            method=policy.method,
            policy=found.declared(),
            origin=_ORIGINS.get(policy.origin, policy.origin),
            idempotency=policy.idempotency.value,
            version=contract.version,
            replicas=names,
            overridden=found.overridden,
            tried=found.tried,
            shadow=None if found.shadow is None else found.shadow.declared(),
            declared=policy.declared(),
        )


def _over(policy: Policy, override: Override | None) -> Policy:
    try:
        return policy if override is None else override.over(policy)
    except PolicyError:  # of a contract that nobody serves, which it does not fit
        return policy
