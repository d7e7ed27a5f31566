"""What a client accepts and rejects is on record; what no client of ours says is refused."""

from datetime import timedelta

import pytest

from hauberk.protos.third_party.envoy.config.core.v3.base_pb2 import Node
from hauberk.protos.third_party.envoy.service.discovery.v3.discovery_pb2 import (
    DiscoveryRequest,
    DiscoveryResponse,
)
from hauberk.services.control.clients import (
    MAX_NAME_LENGTH,
    MAX_NAMES,
    MAX_NAMES_TEXT,
    MAX_UNANSWERED,
    Client,
)
from hauberk.services.control.errors import RequestRefused
from hauberk.services.control.xds.resource import NAME
from tests.control.xds_mesh import NOW, spiffe, workload
from tests.control.xds_peer import (
    CLUSTER,
    ENDPOINTS,
    HERE,
    ORDERS,
    ROUTES,
    THERE,
    Peer,
)


@pytest.fixture
def peer() -> Peer:
    return Peer()


def test_versions_follow_the_content_not_the_stream() -> None:
    one, two = Peer(), Peer()
    one.fetch(ENDPOINTS, "orders", "catalog")
    late = one.record
    assert late.describe().types[0].version_sent == two.fetch(ENDPOINTS, "catalog", "orders").version_info
    assert one.fetch(ROUTES, NAME).version_info == two.fetch(ROUTES, NAME).version_info


def test_an_acknowledged_version_is_on_record(peer: Peer) -> None:
    peer.ask(CLUSTER, "orders")
    response = peer.expect()
    assert peer.state(CLUSTER).version_sent == response.version_info
    assert peer.state(CLUSTER).version_acked == ""
    peer.answer(response)
    assert peer.state(CLUSTER).version_acked == response.version_info
    assert peer.state(CLUSTER).names == ["orders"]


def test_a_rejection_is_on_record_with_its_words_until_a_later_version_is_accepted(peer: Peer) -> None:
    good = peer.fetch(ENDPOINTS, "orders")
    peer.show(workload("orders", ORDERS, at=[THERE]))
    bad = peer.expect()
    peer.answer(bad, error="weight missing", at=5)
    state = peer.state(ENDPOINTS)
    assert (state.version_nacked, state.nack_detail) == (bad.version_info, "weight missing")
    assert state.nacked_at.ToDatetime(tzinfo=NOW.tzinfo) == NOW + timedelta(seconds=5)
    assert state.version_acked == good.version_info
    assert peer.next() is None, "the same is not sent again"
    peer.show(workload("orders", ORDERS, at=[HERE, THERE]))
    peer.answer(peer.expect())
    state = peer.state(ENDPOINTS)
    assert (state.version_nacked, state.nack_detail, state.HasField("nacked_at")) == ("", "", False)


def test_a_rejection_that_crossed_a_later_response_is_on_record(peer: Peer) -> None:
    peer.ask(ENDPOINTS, "orders")
    first = peer.expect()
    peer.show(workload("orders", ORDERS, at=[THERE]))
    second = peer.expect()
    peer.answer(first, error="no")
    assert peer.state(ENDPOINTS).version_nacked == first.version_info
    peer.answer(second)
    assert peer.state(ENDPOINTS).version_nacked == ""


def test_an_accepted_response_counts_for_those_before_it(peer: Peer) -> None:
    peer.ask(ENDPOINTS, "orders")
    first = peer.expect()
    peer.show(workload("orders", ORDERS, at=[THERE]))
    second = peer.expect()
    peer.answer(second)
    peer.answer(first, error="late")
    assert peer.state(ENDPOINTS).version_acked == second.version_info
    assert peer.state(ENDPOINTS).nack_detail == ""


def test_a_rejection_is_cut_to_what_can_be_shown(peer: Peer) -> None:
    peer.ask(ENDPOINTS, "orders")
    peer.answer(peer.expect(), error="x" * 100_000)
    assert len(peer.state(ENDPOINTS).nack_detail) == 4096


def test_a_client_that_never_answers_costs_no_more_and_more_memory(peer: Peer) -> None:
    peer.ask(ENDPOINTS, "orders")
    first = peer.expect()
    for port in range(1, MAX_UNANSWERED + 2):
        peer.show(workload("orders", ORDERS, at=[f"127.0.0.1:{port}"]))
        peer.expect()
    peer.answer(first, error="long forgotten")
    assert peer.state(ENDPOINTS).nack_detail == ""


def test_a_client_is_described_by_its_certificate_and_by_its_own_words(peer: Peer) -> None:
    peer.fetch(ROUTES, NAME)
    described = peer.record.describe()
    assert described.spiffe_id == str(spiffe("gateway"))
    assert (described.node_id, described.user_agent, described.user_agent_version) == ("n", "agent", "1")
    assert described.connected_at.ToDatetime(tzinfo=NOW.tzinfo) == NOW
    assert [each.type for each in described.types] == ["RouteConfiguration"]


def test_what_a_client_says_cannot_steer_a_terminal(peer: Peer) -> None:
    peer.ask(ROUTES, NAME)
    peer.answer(peer.expect(), error="\x1b[2Jno\nworkload  serving\x07")
    assert peer.state(ROUTES).nack_detail == " [2Jno workload  serving "
    talker = Client(spiffe("gateway"), NOW)
    talker.receive(DiscoveryRequest(node=Node(id="\x1b[31mn\n"), type_url=ROUTES.value), NOW)
    assert talker.describe().node_id == " [31mn "


def test_the_node_says_nothing_about_who_asks() -> None:
    imposter = Client(spiffe("stranger"), NOW)
    request = DiscoveryRequest(
        node=Node(id=str(spiffe("gateway"))), type_url=ENDPOINTS.value, resource_names=["orders"]
    )
    imposter.receive(request, NOW)
    body = imposter.next_response(Peer().resources, "control")
    assert body is not None
    assert not DiscoveryResponse.FromString(body).resources


def refused(client: Client, request: DiscoveryRequest) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        client.receive(request, NOW)
    return caught.value


def test_a_first_request_without_a_node_is_refused() -> None:
    refusal = refused(Client(spiffe("gateway"), NOW), DiscoveryRequest(type_url=ROUTES.value))
    assert refusal.reason == "NODE_MISSING"


@pytest.mark.parametrize(
    "type_url", ["", "Cluster", "type.googleapis.com/envoy.service.secret.v3.Secret", "x" * 999]
)
def test_a_type_that_is_not_served_is_refused(type_url: str) -> None:
    refusal = refused(Client(spiffe("gateway"), NOW), DiscoveryRequest(node=Node(id="n"), type_url=type_url))
    assert refusal.reason == "RESOURCE_TYPE_UNKNOWN"
    assert len(str(refusal)) < 300


def test_too_many_names_are_refused() -> None:
    many = [str(n) for n in range(MAX_NAMES + 1)]
    request = DiscoveryRequest(node=Node(id="n"), type_url=CLUSTER.value, resource_names=many)
    assert refused(Client(spiffe("gateway"), NOW), request).reason == "TOO_MANY_NAMES"


def test_names_too_long_together_are_refused() -> None:
    long = [f"{n:05}".ljust(MAX_NAME_LENGTH, "x") for n in range(MAX_NAMES_TEXT // MAX_NAME_LENGTH + 1)]
    request = DiscoveryRequest(node=Node(id="n"), type_url=CLUSTER.value, resource_names=long)
    assert refused(Client(spiffe("gateway"), NOW), request).reason == "TOO_MANY_NAMES"


def test_a_name_too_long_is_refused() -> None:
    request = DiscoveryRequest(
        node=Node(id="n"), type_url=CLUSTER.value, resource_names=["x" * (MAX_NAME_LENGTH + 1)]
    )
    assert refused(Client(spiffe("gateway"), NOW), request).reason == "NAME_TOO_LONG"
