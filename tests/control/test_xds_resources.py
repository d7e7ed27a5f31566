"""The resources on their bytes: what must stand in each, and what may stand in none."""

from collections.abc import Iterator

import pytest
from google.protobuf.message import Message

from hauberk.certs.identity import SpiffeId
from hauberk.protos.third_party.envoy.config.cluster.v3.cluster_pb2 import Cluster
from hauberk.protos.third_party.envoy.config.core.v3.health_check_pb2 import HealthStatus
from hauberk.protos.third_party.envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from hauberk.protos.third_party.envoy.config.listener.v3.listener_pb2 import Listener
from hauberk.protos.third_party.envoy.config.route.v3.route_components_pb2 import Route
from hauberk.protos.third_party.envoy.config.route.v3.route_pb2 import RouteConfiguration
from hauberk.protos.third_party.envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from hauberk.protos.third_party.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from hauberk.protos.third_party.envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from hauberk.protos.third_party.envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse
from hauberk.services.control.snapshot import Snapshot, Status
from hauberk.services.control.xds.clusters import MAX_REQUESTS, load_assignment
from hauberk.services.control.xds.listeners import FAULT_FILTER
from hauberk.services.control.xds.resource import NAME, Resource, ResourceType, response, version_of
from hauberk.services.control.xds.routes import NOWHERE, RETRIES, TO_HEADER
from hauberk.services.control.xds.view import Resources
from tests.control.xds_mesh import contract, replica, snapshot, spiffe, workload

ORDERS = contract("shop.Orders", Place=["gateway"], Get=["gateway", "batch/*"], again=["Get"])
CATALOG = contract("shop.Catalog", List=["orders"])
HIDDEN = contract("secret.Vault", Open=["banker"])
CONTROL = spiffe("control")
CALLERS = ("gateway", "batch/night", "orders", "banker", "stranger", "operators/local")
NAMES = ("orders", "catalog", "prod/vault", NOWHERE, NAME)
MESSAGES: dict[ResourceType, type[Message]] = {
    ResourceType.LISTENER: Listener,
    ResourceType.ROUTES: RouteConfiguration,
    ResourceType.CLUSTER: Cluster,
    ResourceType.ENDPOINTS: ClusterLoadAssignment,
}


def mesh() -> Snapshot:
    return snapshot(
        workload("orders", ORDERS, at=["127.0.0.1:1001", "[::1]:1002"]),
        workload("catalog", CATALOG),
        workload("prod/vault", HIDDEN, at=["10.9.8.7:6543"], status=Status.DRAINING),
    )


def sent(resources: Resources, caller: SpiffeId) -> Iterator[tuple[ResourceType, Resource]]:
    """Everything that `caller` gets, whatever it asks for."""
    view = resources.view(caller)
    for kind in ResourceType:
        for name in (*NAMES, *view.names(kind)):
            resource = resources.find(view, kind, name)
            if resource is not None:
                yield kind, resource


def messages(caller: str, kind: ResourceType, of: Snapshot | None = None) -> dict[str, Message]:
    resources = Resources(of or mesh(), CONTROL)
    found = {}
    for each, resource in sent(resources, spiffe(caller)):
        if each is kind:
            packed = DiscoveryResponse.FromString(resource.body).resources[0]
            found[resource.name] = MESSAGES[kind]()
            assert packed.Unpack(found[resource.name])
    return found


def cluster(caller: str, name: str) -> Cluster:
    found = messages(caller, ResourceType.CLUSTER)[name]
    assert isinstance(found, Cluster)
    return found


def routes(caller: str, of: Snapshot | None = None) -> list[Route]:
    configuration = messages(caller, ResourceType.ROUTES, of)[NAME]
    assert isinstance(configuration, RouteConfiguration)
    assert [list(host.domains) for host in configuration.virtual_hosts] == [["*"]]
    return list(configuration.virtual_hosts[0].routes)


def summary(route: Route) -> tuple[str, str | None, str]:
    """Path or prefix, the name in hauberk-to ("*" for any), the cluster or "refused"."""
    to = None
    for header in route.match.headers:
        assert header.name == TO_HEADER
        to = "*" if header.present_match else header.string_match.exact
    return (
        route.match.path or f"{route.match.prefix}*",
        to,
        "refused" if refuses(route) else route.route.cluster,
    )


def refuses(route: Route) -> bool:
    if FAULT_FILTER not in route.typed_per_filter_config:
        return False
    fault = HTTPFault()
    assert route.typed_per_filter_config[FAULT_FILTER].Unpack(fault)
    assert (fault.abort.grpc_status, fault.abort.percentage.numerator) == (7, 100)
    assert route.route.cluster == NOWHERE
    return True


def test_the_routes_of_a_caller_are_its_methods_and_a_refusal() -> None:
    assert [summary(route) for route in routes("gateway")] == [
        ("/grpc.health.v1.Health/*", "orders", "orders"),
        ("/shop.Orders/Get", "orders", "orders"),
        ("/shop.Orders/Place", "orders", "orders"),
        ("*", "*", "refused"),
        ("/shop.Orders/Get", None, "orders"),
        ("/shop.Orders/Place", None, "orders"),
        ("*", None, "refused"),
    ]


def test_an_operator_gets_health_and_both_reflections_of_every_workload() -> None:
    got = {summary(route) for route in routes("operators/local")}
    for name in ("orders", "catalog", "prod/vault"):
        assert {
            ("/grpc.health.v1.Health/*", name, name),
            ("/grpc.reflection.v1.ServerReflection/*", name, name),
            ("/grpc.reflection.v1alpha.ServerReflection/*", name, name),
        } <= got


def test_nobody_else_gets_a_route_to_reflection() -> None:
    for caller in CALLERS[:-1]:
        assert not [each for each in map(summary, routes(caller)) if "reflection" in each[0]]


@pytest.mark.parametrize("caller", CALLERS)
def test_the_last_route_of_everybody_refuses_whatever_is_left(caller: str) -> None:
    assert summary(routes(caller)[-1]) == ("*", None, "refused")
    assert not routes(caller)[-1].match.headers


def test_who_may_call_nothing_gets_nothing_but_refusals() -> None:
    assert {summary(route)[2] for route in routes("stranger")} == {"refused"}
    assert set(messages("stranger", ResourceType.CLUSTER)) == {NOWHERE}


def test_a_contested_contract_is_reached_by_name_only() -> None:
    twice = snapshot(workload("orders", ORDERS), workload("orders2", ORDERS))
    got = [summary(route) for route in routes("batch/1", twice)]
    assert ("/shop.Orders/Get", "orders", "orders") in got
    assert ("/shop.Orders/Get", "orders2", "orders2") in got
    assert not [each for each in got if each[1] is None and each[2] != "refused"]


def test_only_methods_safe_to_repeat_are_retried_and_seldom() -> None:
    for route in routes("gateway"):
        policy = route.route.retry_policy
        if route.match.path == "/shop.Orders/Get" or route.match.prefix.startswith("/grpc.health"):
            assert (policy.retry_on, policy.num_retries.value) == ("unavailable,cancelled", RETRIES)
        else:
            assert not route.route.HasField("retry_policy")


def test_no_route_sets_a_time_limit() -> None:
    """Core's own fire one or two seconds early (grpc/grpc#40633); deadlines are kept in Python."""
    for caller in CALLERS:
        for route in routes(caller):
            assert not route.route.HasField("max_stream_duration")
            assert not route.route.HasField("timeout")


@pytest.mark.parametrize("caller", CALLERS)
def test_no_cluster_is_without_the_one_name_its_servers_must_show(caller: str) -> None:
    for name, message in messages(caller, ResourceType.CLUSTER).items():
        assert isinstance(message, Cluster)
        tls = UpstreamTlsContext()
        assert message.transport_socket.typed_config.Unpack(tls)
        context = tls.common_tls_context
        assert context.tls_certificate_provider_instance.instance_name == NAME
        validation = context.validation_context
        assert validation.ca_certificate_provider_instance.instance_name == NAME
        expected = str(CONTROL if name == NOWHERE else spiffe(name))
        assert [matcher.exact for matcher in validation.match_subject_alt_names] == [expected]
        assert expected == expected.lower()
        assert not validation.match_typed_subject_alt_names, "gRPC ignores these, silently"


@pytest.mark.parametrize("caller", CALLERS)
def test_every_cluster_gets_its_endpoints_here_and_has_a_limit(caller: str) -> None:
    for message in messages(caller, ResourceType.CLUSTER).values():
        assert isinstance(message, Cluster)
        assert message.type == Cluster.EDS
        assert message.eds_cluster_config.eds_config.HasField("ads")
        assert message.lb_policy == Cluster.ROUND_ROBIN
        assert [each.max_requests.value for each in message.circuit_breakers.thresholds] == [MAX_REQUESTS]


def test_every_locality_and_endpoint_has_a_weight() -> None:
    for caller in CALLERS:
        for message in messages(caller, ResourceType.ENDPOINTS).values():
            assert isinstance(message, ClusterLoadAssignment)
            for locality in message.endpoints:
                assert locality.load_balancing_weight.value == 1
                assert [each.load_balancing_weight.value for each in locality.lb_endpoints]
                assert {each.load_balancing_weight.value for each in locality.lb_endpoints} == {1}


def test_every_route_leads_to_a_cluster_that_is_sent_with_endpoints() -> None:
    for caller in CALLERS:
        led = {route.route.cluster for route in routes(caller)}
        assert (
            led
            == set(messages(caller, ResourceType.CLUSTER))
            == set(messages(caller, ResourceType.ENDPOINTS))
        )


def test_the_listener_is_the_same_for_all_and_asks_for_routes_over_ads() -> None:
    listeners = [messages(caller, ResourceType.LISTENER)[NAME] for caller in CALLERS]
    assert all(each == listeners[0] for each in listeners)
    assert isinstance(listeners[0], Listener)
    manager = hcm.HttpConnectionManager()
    assert listeners[0].api_listener.api_listener.Unpack(manager)
    assert manager.rds.route_config_name == NAME
    assert manager.rds.config_source.HasField("ads")
    assert [each.name for each in manager.http_filters] == [FAULT_FILTER, "envoy.filters.http.router"]


@pytest.mark.parametrize(
    ("caller", "absent"),
    [
        ("gateway", (b"vault", b"secret", b"catalog", b"Catalog", b"10.9.8.7", b"batch", b"banker")),
        ("batch/night", (b"vault", b"secret", b"atalog", b"10.9.8.7", b"Place", b"gateway")),
        ("orders", (b"vault", b"secret", b"Orders", b"shop.test/orders", b"127.0.0.1", b"10.9.8.7")),
        ("banker", (b"shop.O", b"shop.C", b"orders", b"catalog", b"127.0.0.1")),
        ("stranger", (b"shop.O", b"shop.C", b"orders", b"catalog", b"vault", b"secret", b"127.0", b"10.9")),
        ("operators/local", (b"shop.Orders", b"shop.Catalog", b"secret", b"gateway", b"banker")),
    ],
)
def test_no_byte_of_what_a_caller_may_not_call_is_sent_to_it(caller: str, absent: tuple[bytes, ...]) -> None:
    everything = b"".join(each.body for _, each in sent(Resources(mesh(), CONTROL), spiffe(caller)))
    assert everything
    assert [secret for secret in absent if secret in everything] == []


def test_the_test_above_would_find_what_is_sent() -> None:
    everything = b"".join(each.body for _, each in sent(Resources(mesh(), CONTROL), spiffe("banker")))
    for visible in (b"vault", b"secret.Vault/Open", b"10.9.8.7", str(spiffe("prod/vault")).encode()):
        assert visible in everything


def test_a_status_is_told_as_health() -> None:
    replicas = [
        replica("orders", f"127.0.0.1:100{n}", status=status, number=str(n))
        for n, status in enumerate(Status)
    ]
    locality = load_assignment("orders", replicas).endpoints[0]
    assert [each.health_status for each in locality.lb_endpoints] == [
        HealthStatus.HEALTHY,
        HealthStatus.UNHEALTHY,
        HealthStatus.DRAINING,
    ]


def test_no_replicas_are_an_assignment_without_a_locality() -> None:
    assert not load_assignment("orders", []).endpoints


def test_an_address_of_two_replicas_is_told_once_as_the_living_one() -> None:
    """gRPC rejects an assignment that repeats an address."""
    twice = [
        replica("orders", "127.0.0.1:1001", status=Status.DRAINING, number="1"),
        replica("orders", "127.0.0.1:1001", status=Status.SERVING, number="2"),
    ]
    for replicas in (twice, twice[::-1]):
        endpoints = load_assignment("orders", replicas).endpoints[0].lb_endpoints
        assert [each.health_status for each in endpoints] == [HealthStatus.HEALTHY]


def test_ipv6_is_told_without_its_brackets() -> None:
    endpoints = load_assignment("orders", [replica("orders", "[::1]:1002")]).endpoints[0].lb_endpoints
    address = endpoints[0].endpoint.address.socket_address
    assert (address.address, address.port_value) == ("::1", 1002)


def test_a_version_is_the_content_and_nothing_else() -> None:
    one, two = (Resource.of("x", load_assignment("x", [replica("x", f"10.0.0.{n}:1")])) for n in (1, 2))
    assert one.version != two.version
    assert (
        one.version
        == Resource.of("x", load_assignment("x", [replica("x", "10.0.0.1:1", number="9")])).version
    )
    assert version_of([one, two]) == version_of([two, one])
    assert version_of([one]) == one.version
    assert version_of([]) != version_of([one])


def test_a_response_put_together_from_kept_bytes_reads_as_one() -> None:
    kept = [Resource.of(name, load_assignment(name, ())) for name in ("a", "b")]
    read = DiscoveryResponse.FromString(
        response(ResourceType.ENDPOINTS, kept, version="v", nonce="7", control_plane="control")
    )
    assert (read.version_info, read.nonce, read.type_url) == ("v", "7", ResourceType.ENDPOINTS.value)
    assert read.control_plane.identifier == "control"
    names = []
    for packed in read.resources:
        assignment = ClusterLoadAssignment()
        assert packed.Unpack(assignment)
        names.append(assignment.cluster_name)
    assert names == ["a", "b"]
