"""All resources of one snapshot, and the part of them that one caller may be sent.

Callers who may call the same share one view, and a view outlives its snapshot: mostly endpoints change.
Whatever is sent to anybody has gone through `Resources.find` with that caller's view.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hauberk.certs.identity import SpiffeId
from hauberk.services.control.snapshot import Snapshot, Status, Visible, Workload
from hauberk.services.control.xds.clusters import addresses, cluster, load_assignment
from hauberk.services.control.xds.listeners import listener
from hauberk.services.control.xds.resource import NAME, Resource, ResourceType
from hauberk.services.control.xds.routes import NOWHERE, route_configuration

_LISTENER = Resource.of(NAME, listener())
_NOBODY = Resource.of(NOWHERE, load_assignment(NOWHERE, ()))


@dataclass(frozen=True, slots=True)
class View:
    """What callers who may call the same may ask for; endpoints go by the names of their clusters."""

    routes: Resource
    clusters: Mapping[str, Resource]

    def names(self, kind: ResourceType) -> frozenset[str]:
        """All there is of one type."""
        if kind in (ResourceType.LISTENER, ResourceType.ROUTES):
            return frozenset((NAME,))
        return frozenset(self.clusters)


class Resources:
    """The resources of one snapshot; of those `before`, what is the same is taken over."""

    def __init__(self, snapshot: Snapshot, control_id: SpiffeId, before: "Resources | None" = None) -> None:
        """`control_id` is whom the cluster of refusals expects; it has no endpoints."""
        self.snapshot = snapshot
        self._by_caller: dict[SpiffeId, View] = {}
        self._views: dict[Visible, View] = {}
        self._old_views: dict[Visible, View] = {}
        self._endpoints: dict[str, _Endpoints] = {}
        if before is None:
            self._clusters = {NOWHERE: Resource.of(NOWHERE, cluster(NOWHERE, control_id))}
        else:
            self._clusters = before._clusters
            self._take_over(before)
        known = before._endpoints if before else {}
        for name, workload in snapshot.workloads.items():
            self._endpoints[name] = _endpoints(name, workload, known.get(name))

    def view(self, caller: SpiffeId) -> View:
        """What `caller` may be sent."""
        view = self._by_caller.get(caller)
        if view is None:
            view = self._by_caller[caller] = self._view(self.snapshot.visible(caller))
        return view

    def find(self, view: View, kind: ResourceType, name: str) -> Resource | None:
        """The resource, if there is one and the view's callers may have it: hidden is as unknown."""
        if name not in view.names(kind):
            return None
        match kind:
            case ResourceType.LISTENER:
                return _LISTENER
            case ResourceType.ROUTES:
                return view.routes
            case ResourceType.CLUSTER:
                return view.clusters[name]
            case ResourceType.ENDPOINTS:
                return self._endpoints[name].resource if name != NOWHERE else _NOBODY

    def moved_since(self, before: "Resources") -> frozenset[str]:
        """The workloads whose endpoints are others than before, or are gone."""
        ours, theirs = self._endpoints, before._endpoints
        return frozenset(
            name for name in ours.keys() | theirs.keys() if ours.get(name) is not theirs.get(name)
        )

    def _take_over(self, before: "Resources") -> None:
        if before.snapshot.contracts_version == self.snapshot.contracts_version:
            self._by_caller, self._views, self._old_views = (
                before._by_caller,
                before._views,
                before._old_views,
            )
        else:
            self._old_views = before._views

    def _view(self, visible: Visible) -> View:
        view = self._views.get(visible) or self._old_views.get(visible)
        if view is None:
            view = View(
                routes=Resource.of(NAME, route_configuration(visible)),
                clusters={name: self._cluster(name) for name in (*sorted(visible.workloads), NOWHERE)},
            )
        self._views[visible] = view
        return view

    def _cluster(self, name: str) -> Resource:
        resource = self._clusters.get(name)
        if resource is None:
            server = self.snapshot.workloads[name].spiffe_id
            resource = self._clusters[name] = Resource.of(name, cluster(name, server))
        return resource


@dataclass(frozen=True, slots=True)
class _Endpoints:
    addresses: tuple[tuple[str, Status], ...]
    resource: Resource


def _endpoints(name: str, workload: Workload, known: _Endpoints | None) -> _Endpoints:
    """The same object as long as the endpoints are the same, whatever else a replica says anew."""
    now = addresses(workload.replicas)
    if known is not None and known.addresses == now:
        return known
    return _Endpoints(now, Resource.of(name, load_assignment(name, workload.replicas)))
