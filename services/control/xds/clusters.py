"""The Cluster of one workload and its endpoints, for gRPC clients (gRFC A27, A29, A32).

Two rules without exception. A Cluster names the one SPIFFE ID its servers must show: without
`match_subject_alt_names` gRPC takes any certificate of ours for the right one, and it ignores the newer
`match_typed_subject_alt_names` silently. A locality has a weight: without one gRPC drops it, silently too.
"""

from collections.abc import Iterable

from google.protobuf.wrappers_pb2 import UInt32Value

from hauberk.certs.identity import SpiffeId
from hauberk.protos.third_party.envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from hauberk.protos.third_party.envoy.config.cluster.v3.cluster_pb2 import Cluster
from hauberk.protos.third_party.envoy.config.core.v3.address_pb2 import Address, SocketAddress
from hauberk.protos.third_party.envoy.config.core.v3.base_pb2 import Locality, TransportSocket
from hauberk.protos.third_party.envoy.config.core.v3.health_check_pb2 import HealthStatus
from hauberk.protos.third_party.envoy.config.endpoint.v3 import endpoint_components_pb2 as components
from hauberk.protos.third_party.envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from hauberk.protos.third_party.envoy.extensions.transport_sockets.tls.v3 import common_pb2 as tls
from hauberk.protos.third_party.envoy.extensions.transport_sockets.tls.v3.tls_pb2 import (
    CommonTlsContext,
    UpstreamTlsContext,
)
from hauberk.protos.third_party.envoy.type.matcher.v3.string_pb2 import StringMatcher
from hauberk.services.control.snapshot import Replica, Status, parse_address
from hauberk.services.control.xds.listeners import OVER_ADS, packed
from hauberk.services.control.xds.resource import NAME

MAX_REQUESTS = 1000
"""Calls in flight of one process to one workload; more are UNAVAILABLE. Unset it would be 1024."""

_HEALTH = {
    Status.SERVING: HealthStatus.HEALTHY,
    Status.NOT_SERVING: HealthStatus.UNHEALTHY,
    Status.DRAINING: HealthStatus.DRAINING,
}
_BEST_FIRST = (Status.SERVING, Status.DRAINING, Status.NOT_SERVING)


def cluster(name: str, server: SpiffeId) -> Cluster:
    """The cluster `name`, whose servers must be `server`; endpoints come over the same stream."""
    return Cluster(
        name=name,
        type=Cluster.EDS,
        eds_cluster_config=Cluster.EdsClusterConfig(eds_config=OVER_ADS),
        lb_policy=Cluster.ROUND_ROBIN,
        circuit_breakers=CircuitBreakers(
            thresholds=[CircuitBreakers.Thresholds(max_requests=UInt32Value(value=MAX_REQUESTS))]
        ),
        transport_socket=TransportSocket(
            name="envoy.transport_sockets.tls", typed_config=packed(_upstream_tls(server))
        ),
    )


def load_assignment(name: str, replicas: Iterable[Replica]) -> ClusterLoadAssignment:
    """The endpoints of the cluster `name`; with no replicas, the assignment that makes calls UNAVAILABLE."""
    endpoints = [_endpoint(address, status) for address, status in addresses(replicas)]
    if not endpoints:
        return ClusterLoadAssignment(cluster_name=name)
    locality = components.LocalityLbEndpoints(
        locality=Locality(), load_balancing_weight=UInt32Value(value=1), lb_endpoints=endpoints
    )
    return ClusterLoadAssignment(cluster_name=name, endpoints=[locality])


def addresses(replicas: Iterable[Replica]) -> tuple[tuple[str, Status], ...]:
    """Each address once, with the best status said of it, sorted.

    A replica that came back on its old port is listed twice for some seconds, and gRPC rejects a set of
    endpoints in which one is repeated.
    """
    best: dict[str, Status] = {}
    for replica in sorted(replicas, key=lambda each: _BEST_FIRST.index(each.status), reverse=True):
        best[replica.address] = replica.status
    return tuple(sorted(best.items()))


def _endpoint(address: str, status: Status) -> components.LbEndpoint:
    host, port = parse_address(address)
    return components.LbEndpoint(
        health_status=_HEALTH[status],
        load_balancing_weight=UInt32Value(value=1),
        endpoint=components.Endpoint(
            address=Address(socket_address=SocketAddress(address=host, port_value=port))
        ),
    )


def _upstream_tls(server: SpiffeId) -> UpstreamTlsContext:
    return UpstreamTlsContext(
        common_tls_context=CommonTlsContext(
            tls_certificate_provider_instance=tls.CertificateProviderPluginInstance(instance_name=NAME),
            validation_context=tls.CertificateValidationContext(
                ca_certificate_provider_instance=tls.CertificateProviderPluginInstance(instance_name=NAME),
                match_subject_alt_names=[StringMatcher(exact=str(server))],
            ),
        )
    )
