"""Who is here: the replicas announced and the contracts they brought, held in memory, in one event loop.

A replica is held by the lease of its stream. When that ends, the replica stays listed for a grace, so that
its next stream takes over without a change for callers. Every change is published, and replaces `state` for
whoever saves it.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from hauberk.certs.identity import SpiffeId
from hauberk.certs.watch import Watch
from hauberk.services.control.contracts import Announced
from hauberk.services.control.errors import (
    AddressTaken,
    NameRevoked,
    NotBound,
    ReplicaTaken,
    TooManyVersions,
)
from hauberk.services.control.publish import Clock, Publisher, Timer
from hauberk.services.control.snapshot import Contract, Replica, Status, Workload

RESTORED_GRACE_S = 10.0
"""How long replicas known from before a restart of ours may take to announce themselves again."""
MAX_VERSIONS = 20
"""Of one contract alive at once: each is kept whole, and a rollout needs two or three."""
MAX_MISSED = 1000
"""Of one name at once: who comes under ever new names of replicas costs no more memory than that."""
GATHERED_S = 0.02
"""Changes are gathered for so long before they are handed on: a thousand replicas that start at once are not
put in order a thousand times.
"""

End = Literal["taken over", "revoked", "unbound", "stopping"]
Key = tuple[SpiffeId, str]

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Lease:
    """One stream's hold on one replica, until it ends it or we do."""

    key: Key
    on_end: Callable[[], None] = field(default=lambda: None, repr=False)
    """Called once when we end it; `end` then says why."""
    end: End | None = None


@dataclass(frozen=True, slots=True)
class State:
    """Everything announced that a restart should find again."""

    replicas: tuple[Replica, ...] = ()
    contracts: tuple[tuple[SpiffeId, Announced], ...] = ()


@dataclass(slots=True)
class _Listing:
    replica: Replica
    lease: Lease | None = None
    lapse: Timer | None = None


class Roster:
    """The replicas and contracts of the mesh. Not thread-safe, never awaits."""

    def __init__(
        self,
        publisher: Publisher,
        *,
        bindings: Mapping[str, SpiffeId],
        revoked: frozenset[str],
        restored: State,
        grace_s: Callable[[], float],
        missed_s: float,
        clock: Clock,
        over: Callable[[Contract], Contract] = lambda contract: contract,
    ) -> None:
        """`over` is a contract as operators override it: callers are routed by that.

        A replica outlives its stream by `grace_s()`; what is `restored` waits RESTORED_GRACE_S for one.

        One that was dropped then is missed for `missed_s` more: as long as its certificates may last.
        """
        self._publisher = publisher
        self._bindings = bindings
        self._revoked = revoked
        self._grace_s = grace_s
        self._missed_s = missed_s
        self._clock = clock
        self._over = over
        self._listed: dict[Key, _Listing] = {}
        self._missed: dict[SpiffeId, dict[str, Timer]] = {}
        # Of each contract the versions alive, first seen first; the last is the one callers are routed by.
        self._versions: dict[tuple[SpiffeId, str], dict[str, Announced]] = {}
        self.state = Watch(restored)
        for spiffe_id, announced in restored.contracts:
            self._versions[spiffe_id, announced.contract.service] = {announced.contract.version: announced}
        for each in restored.replicas:
            self._listed[each.spiffe_id, each.replica] = _Listing(each)
            self._lapse((each.spiffe_id, each.replica), RESTORED_GRACE_S)
        self._due: Timer | None = None
        self._drop_unbound()
        self.flush()

    @property
    def bindings(self) -> Mapping[str, SpiffeId]:
        """Who may serve each contract."""
        return self._bindings

    def replicas(self) -> list[Replica]:
        """Every replica listed, in order."""
        return [self._listed[key].replica for key in sorted(self._listed, key=_order)]

    def processes(self, spiffe_id: SpiffeId) -> int:
        """How many replicas of this name there may be: those listed, and those that are missed.

        Who has not come back may be cut off from us alone, and live.
        """
        listed = sum(key[0] == spiffe_id for key in self._listed)
        return listed + len(self._missed.get(spiffe_id, ()))

    def contracts(self) -> list[tuple[SpiffeId, Announced]]:
        """Every version of every contract that is alive, or that was last, in order."""
        keys = sorted(self._versions, key=lambda key: (key[1], str(key[0])))
        return [(key[0], announced) for key in keys for announced in self._versions[key].values()]

    def workloads(self) -> list[Workload]:
        """What callers may be told of: contracts bound to their announcers, with the replicas alive."""
        contracts: dict[SpiffeId, list[Contract]] = defaultdict(list)
        replicas: dict[SpiffeId, list[Replica]] = defaultdict(list)
        for key in self._versions:
            contracts[key[0]].append(self._over(self._current(key).contract))
        for replica in self.replicas():
            replicas[replica.spiffe_id].append(replica)
        return [
            Workload(spiffe_id=name, contracts=tuple(contracts[name]), replicas=tuple(replicas[name]))
            for name in sorted({*contracts, *replicas}, key=str)
        ]

    def check_bound(self, spiffe_id: SpiffeId, services: Iterable[str]) -> None:
        """Raises NameRevoked, or NotBound if one of the contracts is not this name's to serve."""
        if str(spiffe_id) in self._revoked:
            raise NameRevoked(f"{spiffe_id} was revoked")
        for service in services:
            if self._bindings.get(service) != spiffe_id:
                raise NotBound(
                    f"{spiffe_id} announced {service:.99}, which it may not serve: name it under serves in "
                    f"mesh.toml, or hauberk invite {spiffe_id.name} --serves {service:.99}, "
                    "and --serves again for each contract it is to keep",
                    metadata={"contract": service, "spiffe_id": str(spiffe_id)},
                )

    def take(self, replica: Replica, contracts: tuple[Announced, ...]) -> Lease:
        """List the replica, in place of what it announced before; an older stream of it is ended.

        Raises NameRevoked, NotBound, TooManyVersions, AddressTaken if another living replica has its address,
        or ReplicaTaken if it is alive at another address itself: two processes of one name would oust each
        other for ever.
        """
        self.check_bound(replica.spiffe_id, replica.contracts)
        self._check_versions(replica.spiffe_id, contracts)
        key = replica.spiffe_id, replica.replica
        before = self._listed.get(key)
        if before is not None and before.lease is not None and before.replica.address != replica.address:
            raise ReplicaTaken(
                f"{_named(key)} is alive at {before.replica.address}: "
                f"give each replica a name of its own with HAUBERK_REPLICA",
                metadata={"replica": _named(key), "address": before.replica.address},
            )
        self._free_address(key, replica.address)
        lease = Lease(key)
        self._listed[key] = _Listing(replica, lease)
        if (missed := self._missed.get(key[0], {}).pop(key[1], None)) is not None:
            missed.cancel()
        for announced in contracts:
            versions = self._versions.setdefault((replica.spiffe_id, announced.contract.service), {})
            versions.setdefault(announced.contract.version, announced)
        if before is not None:
            self._release(before, "taken over")
        self._changed()
        return lease

    def report(self, lease: Lease, status: Status) -> Replica | None:
        """Note the serving status; the replica as it is now listed, or None if the lease is over."""
        listing = self._listed.get(lease.key)
        if listing is None or listing.lease is not lease:
            return None
        if listing.replica.status is not status:
            listing.replica = replace(listing.replica, status=status)
            self._changed()
        return listing.replica

    def leave(self, lease: Lease) -> None:
        """The stream has ended: a draining replica goes at once, any other after the grace."""
        listing = self._listed.get(lease.key)
        if listing is None or listing.lease is not lease:
            return
        listing.lease = None
        if listing.replica.status is Status.DRAINING:
            self._drop(lease.key)
            self._changed()
        else:
            self._lapse(lease.key, self._grace_s())

    def revoke(self, spiffe_id: SpiffeId, bindings: Mapping[str, SpiffeId]) -> None:
        """Forget the name: its replicas, its contracts, its streams. Published without delay."""
        self._revoked |= {str(spiffe_id)}
        self._bindings = bindings
        for key in [key for key in self._listed if key[0] == spiffe_id]:
            self._drop(key, "revoked")
        self._drop_unbound()
        self.flush()

    def reinstate(self, spiffe_id: SpiffeId) -> None:
        """The name may announce itself again, once contracts are bound to it."""
        self._revoked -= {str(spiffe_id)}
        self._changed()

    def rebind(self, bindings: Mapping[str, SpiffeId]) -> None:
        """Contracts have changed hands: who may no longer serve what it announced is dropped."""
        self._bindings = bindings
        self._drop_unbound()
        self._changed()

    def overridden(self) -> None:
        """Operators have changed what contracts demand. Published without delay."""
        self.flush()

    def close(self) -> None:
        """End every stream and stop the clocks; what is listed stays for the next start to find."""
        for listing in self._listed.values():
            self._release(listing, "stopping")
        self.flush()

    def flush(self) -> None:
        """Hand on and publish what has changed, now."""
        if self._due is not None:
            self._due.cancel()
        self._hand_on()
        self._publisher.flush()

    def _drop_unbound(self) -> None:
        for spiffe_id, service in list(self._versions):
            if self._bindings.get(service) != spiffe_id:
                del self._versions[spiffe_id, service]
        for key, listing in list(self._listed.items()):
            if any(self._bindings.get(service) != key[0] for service in listing.replica.contracts):
                self._drop(key, "unbound")

    def _check_versions(self, spiffe_id: SpiffeId, contracts: Iterable[Announced]) -> None:
        for contract in (announced.contract for announced in contracts):
            alive = self._versions.get((spiffe_id, contract.service), {})
            if contract.version not in alive and len(alive) >= MAX_VERSIONS:
                raise TooManyVersions(
                    f"{len(alive)} versions of {contract.service} are alive: end replicas of older ones first"
                )

    def _free_address(self, key: Key, address: str) -> None:
        for other, listing in list(self._listed.items()):
            if other == key or listing.replica.address != address:
                continue
            if listing.lease is not None:
                raise AddressTaken(
                    f"address {address} is that of {_named(other)}, which is alive",
                    metadata={"address": address, "holder": _named(other)},
                )
            self._drop(other)

    def _lapse(self, key: Key, grace_s: float, *, waited_s: float = 0.0) -> None:
        def lapsed() -> None:
            if self._grace_s() > grace_s:  # it has grown since the stream ended
                self._lapse(key, self._grace_s(), waited_s=grace_s)
                return
            _log.info("%s has not come back, dropped", _named(key))
            self._drop(key)
            self._miss(key)
            self._changed()

        self._listed[key].lapse = self._clock.call_later(grace_s - waited_s, lapsed)

    def _miss(self, key: Key) -> None:
        missed = self._missed.setdefault(key[0], {})

        def forget() -> None:
            del missed[key[1]]

        if len(missed) >= MAX_MISSED:
            missed.pop(next(iter(missed))).cancel()
        missed[key[1]] = self._clock.call_later(self._missed_s, forget)

    def _drop(self, key: Key, why: End = "taken over") -> None:
        self._release(self._listed.pop(key), why)

    def _release(self, listing: _Listing, why: End) -> None:
        if listing.lapse is not None:
            listing.lapse.cancel()
        listing.lapse = None
        lease, listing.lease = listing.lease, None
        if lease is not None:
            lease.end = why
            lease.on_end()

    def _current(self, key: tuple[SpiffeId, str]) -> Announced:
        return list(self._versions[key].values())[-1]

    def _changed(self) -> None:
        self._forget_versions()
        if self._due is None:
            self._due = self._clock.call_later(GATHERED_S, self._hand_on)

    def _hand_on(self) -> None:
        self._due = None
        current = tuple((key[0], self._current(key)) for key in self._versions)
        self.state.set(State(tuple(self.replicas()), current))
        self._publisher.update(self.workloads(), self._revoked)

    def _forget_versions(self) -> None:
        """Versions that no replica enforces any more go; the last of a contract stays, for its route."""
        alive = {
            (listing.replica.spiffe_id, service, version)
            for listing in self._listed.values()
            for service, version in listing.replica.policy_versions.items()
        }
        for key, versions in self._versions.items():
            for version in list(versions):
                if len(versions) > 1 and (*key, version) not in alive:
                    del versions[version]


def _order(key: Key) -> tuple[str, str]:
    return str(key[0]), key[1]


def _named(key: Key) -> str:
    return f"{key[0]}#{key[1]}"
