"""The mesh as the control plane knows it at one moment: immutable, versioned by content.

A snapshot answers one question above all: what may this caller call? Whatever it may not call must not reach
it in any form, so everything sent over xDS is built from a `Visible`, never from the snapshot's workloads
themselves.
"""

import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Self

from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.policy import CallerPattern, Idempotency, Policy

OPERATORS = CallerPattern.parse("operators/*")

_PORT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)


class Status(StrEnum):
    """What a replica says of itself; only SERVING is given new calls."""

    SERVING = "serving"
    NOT_SERVING = "not_serving"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """One protobuf service, and what each of its methods demands. Raises ValueError for another's policy."""

    service: str
    """Full name, `shop.orders.v1.Orders`."""
    methods: Mapping[str, Policy]
    """By the method's own name, `PlaceOrder`."""
    version: str

    def __post_init__(self) -> None:
        for name, policy in self.methods.items():
            if policy.method != f"/{self.service}/{name}":
                raise ValueError(f"policy of {policy.method} given for /{self.service}/{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One announced process. Raises ValueError unless `address` is an IP address and a port (`[::1]:50051`).

    gRPC rejects a whole set of endpoints for one host name among them, so none gets this far.
    """

    spiffe_id: SpiffeId
    replica: str
    address: str
    status: Status
    agent: str
    svid_expires_at: datetime
    contracts: tuple[str, ...]
    policy_versions: Mapping[str, str]

    def __post_init__(self) -> None:
        parse_address(self.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One name in the mesh: the contracts bound to it and the replicas alive, perhaps none."""

    spiffe_id: SpiffeId
    contracts: tuple[Contract, ...]
    replicas: tuple[Replica, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VisibleMethod:
    """One method somebody may call."""

    path: str
    """`/shop.orders.v1.Orders/PlaceOrder`."""
    workload: str
    """Name of the workload that answers it."""
    repeatable: bool
    """The contract says that a second try does no harm."""
    contested: bool
    """Several workloads offer it: reached only by naming one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visible:
    """All that one caller may know of the mesh. Equal for callers who may call the same."""

    methods: tuple[VisibleMethod, ...] = ()
    health: tuple[str, ...] = ()
    """Workloads whose health it may ask for."""
    reflection: tuple[str, ...] = ()
    """Workloads whose contracts it may list."""

    @property
    def workloads(self) -> frozenset[str]:
        return frozenset(method.workload for method in self.methods).union(self.health, self.reflection)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Every workload that is not revoked. Made by `of`."""

    trust_domain: str
    workloads: Mapping[str, Workload]
    """By name, `prod/orders`, in the order of the names."""
    revoked: frozenset[str]
    """SPIFFE IDs, spelled out."""
    contested: frozenset[str]
    """Services that more than one workload offers."""
    contracts_version: str
    """Hash of all that decides who sees what: everything but the replicas."""
    version: str
    """Hash of everything."""
    _by_callers: tuple[tuple[Policy, tuple[VisibleMethod, ...]], ...] = field(repr=False, compare=False)

    @classmethod
    def of(cls, trust_domain: str, workloads: Iterable[Workload], revoked: Iterable[str] = ()) -> Self:
        """The mesh of these workloads, without the revoked ones.

        Raises ValueError for a workload of another trust domain or one that is listed twice.
        """
        refused = frozenset(revoked)
        listed = sorted(workloads, key=lambda workload: workload.spiffe_id.name)
        named = {workload.spiffe_id.name: workload for workload in listed}
        if len(named) != len(listed):
            raise ValueError("a workload is listed twice")
        for workload in listed:
            if workload.spiffe_id.trust_domain != trust_domain:
                raise ValueError(f"workload of another trust domain: {workload.spiffe_id}")
        alive = {name: each for name, each in named.items() if str(each.spiffe_id) not in refused}
        offers = Counter(contract.service for each in alive.values() for contract in each.contracts)
        contested = frozenset(service for service, times in offers.items() if times > 1)
        contracts_version = _hash(trust_domain, sorted(refused), [_contract_facts(w) for w in alive.values()])
        return cls(
            trust_domain=trust_domain,
            workloads=MappingProxyType(alive),
            revoked=refused,
            contested=contested,
            contracts_version=contracts_version,
            version=_hash(contracts_version, [_replica_facts(w) for w in alive.values()]),
            _by_callers=_by_callers(alive.values(), contested),
        )

    def visible(self, caller: SpiffeId) -> Visible:
        """What `caller` may call, and hence know; nothing if it is revoked."""
        if str(caller) in self.revoked:
            return Visible()
        methods: list[VisibleMethod] = []
        for policy, offered in self._by_callers:
            if policy.anonymous or policy.admits(caller, self.trust_domain):
                methods.extend(offered)
        methods.sort(key=lambda method: (method.path, method.workload))
        operator = OPERATORS.matches(caller, self.trust_domain)
        everyone = tuple(self.workloads)
        return Visible(
            methods=tuple(methods),
            health=everyone if operator else tuple(sorted({method.workload for method in methods})),
            reflection=everyone if operator else (),
        )


def parse_address(text: str) -> tuple[str, int]:
    """IP address and port of `127.0.0.1:50051` or `[::1]:50051`, or ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError(f"address without a port of 1 to 65535: {text!r:.99}")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ValueError(f"address is not an ip address and a port: {text!r:.99}") from None
    if bracketed != (address.version == 6) or getattr(address, "scope_id", None) is not None:
        raise ValueError(f"address is not an ip address and a port: {text!r:.99}")
    return str(address), int(port)


def _by_callers(
    workloads: Iterable[Workload], contested: frozenset[str]
) -> tuple[tuple[Policy, tuple[VisibleMethod, ...]], ...]:
    """The methods, grouped by who may call them: a mesh has few answers to that and many methods."""
    groups: dict[tuple[object, ...], tuple[Policy, list[VisibleMethod]]] = {}
    for workload in workloads:
        for contract in workload.contracts:
            for policy in contract.methods.values():
                group = groups.setdefault((policy.anonymous, policy.callers), (policy, []))
                group[1].append(
                    VisibleMethod(
                        path=policy.method,
                        workload=workload.spiffe_id.name,
                        repeatable=policy.idempotency is not Idempotency.UNKNOWN,
                        contested=contract.service in contested,
                    )
                )
    return tuple((policy, tuple(methods)) for policy, methods in groups.values())


def _contract_facts(workload: Workload) -> object:
    contracts = [
        (
            contract.service,
            contract.version,
            sorted((name, repr(each)) for name, each in contract.methods.items()),
        )
        for contract in sorted(workload.contracts, key=lambda contract: contract.service)
    ]
    return str(workload.spiffe_id), contracts


def _replica_facts(workload: Workload) -> object:
    return str(workload.spiffe_id), sorted(
        (
            each.replica,
            each.address,
            each.status.value,
            each.agent,
            each.svid_expires_at.isoformat(),
            sorted(each.contracts),
            sorted(each.policy_versions.items()),
        )
        for each in workload.replicas
    )


def _hash(*facts: object) -> str:
    """Hex, 16 digits; of nested lists, tuples and strings only, whose repr is one text for one content."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
