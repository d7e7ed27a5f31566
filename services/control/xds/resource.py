"""One xDS resource, serialised once and shared by every stream it goes to; and the responses made of them.

Most of what a push costs is the message itself, the rest is protobuf: so a response is put together from
bytes that are kept. Messages may be concatenated field by field (protobuf encoding, "Last One Wins").
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from hauberk.protos.third_party.envoy.config.core.v3.base_pb2 import ControlPlane
from hauberk.protos.third_party.envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse

NAME = "mesh"
"""The one Listener, the one RouteConfiguration, and the certificate provider that bootstraps name."""


class ResourceType(StrEnum):
    """The four types a gRPC client asks for, in the order in which they are sent.

    Routes go before clusters: a route to a cluster that is no longer visible is gone before the cluster is,
    and gRPC asks for a new cluster only once a route names it.
    """

    LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
    ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"

    @property
    def short(self) -> str:
        return self.rpartition(".")[2]

    @property
    def whole(self) -> bool:
        """Each response carries all that is subscribed: what is missing counts as deleted."""
        return self in (ResourceType.LISTENER, ResourceType.CLUSTER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A name, a hash of the content, and the content as it stands inside a DiscoveryResponse."""

    name: str
    version: str
    body: bytes

    @classmethod
    def of(cls, name: str, message: Message) -> Self:
        packed = Any()
        packed.Pack(message, deterministic=True)
        digest = hashlib.sha256(packed.value).hexdigest()[:16]
        return cls(name=name, version=digest, body=DiscoveryResponse(resources=[packed]).SerializeToString())


def version_of(resources: Iterable[Resource]) -> str:
    """Of several resources together; of one, its own."""
    listed = sorted((each.name, each.version) for each in resources)
    if len(listed) == 1:
        return listed[0][1]
    return hashlib.sha256(repr(listed).encode()).hexdigest()[:16]


def response(
    kind: ResourceType, resources: Iterable[Resource], *, version: str, nonce: str, control_plane: str
) -> bytes:
    """A DiscoveryResponse, serialised."""
    frame = DiscoveryResponse(
        version_info=version,
        type_url=kind.value,
        nonce=nonce,
        control_plane=ControlPlane(identifier=control_plane),
    )
    return b"".join([frame.SerializeToString(), *(each.body for each in resources)])
