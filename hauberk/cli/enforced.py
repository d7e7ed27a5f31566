"""What the replicas alive enforce, asked of the control plane."""

from dataclasses import dataclass, replace

from hauberk.cli.dial import CALL_S, control_plane
from hauberk.cli.state import State
from hauberk.interceptors.policy import Idempotency, Policy
from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.protos.hauberk.policy.v1 import policy_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforced:
    """A method's policy, and who enforces it so."""

    policy: Policy
    declared: Policy
    """As its contract says it, without any override."""
    names: tuple[str, ...]
    """"spiffe://…/orders#1" of each replica alive; of none, it is what the next one will enforce."""

    @property
    def replicas(self) -> str:
        """Short names, "orders#1, orders#2"; "nobody alive"."""
        return ", ".join(name.rpartition("/")[2] for name in self.names) or "nobody alive"


async def enforced_of(state: State, wanted: str = "") -> list[Enforced]:
    """Of a method, a service or all ("") each version that is alive."""
    async with control_plane(state) as admin:
        answer = await admin.ListPolicies(admin_pb2.ListPoliciesRequest(filter=wanted), timeout=CALL_S)
    return [_of(method) for method in answer.methods]


def _of(said: admin_pb2.MethodPolicy) -> Enforced:
    def read(policy: policy_pb2.Policy) -> Policy:
        idempotency = Idempotency(said.idempotency)
        return Policy.of(policy, method=said.method, idempotency=idempotency, origin=said.origin)

    policy = replace(
        read(said.policy),
        overridden=tuple(said.overridden),
        tried=tuple(said.tried),
        shadow=read(said.shadow) if said.tried else None,
    )
    return Enforced(policy=policy, declared=read(said.declared), names=tuple(said.replicas))
