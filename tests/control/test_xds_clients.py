"""What a client asks for and is sent, request by request, without a network."""

import pytest

from hauberk.services.control.xds.resource import NAME, ResourceType
from hauberk.services.control.xds.routes import NOWHERE
from tests.control.xds_mesh import contract, workload
from tests.control.xds_peer import (
    CATALOG,
    CLUSTER,
    ENDPOINTS,
    HERE,
    HIDDEN,
    ORDERS,
    ROUTES,
    THERE,
    Peer,
    endpoints,
    names,
)


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.mark.parametrize("kind", ResourceType)
def test_the_first_question_of_each_type_is_answered_even_with_nothing(
    peer: Peer, kind: ResourceType
) -> None:
    peer.ask(kind, "no-such-name")
    response = peer.expect()
    assert (names(response), response.type_url, response.nonce) == ([], kind.value, "1")
    assert peer.next() is None


@pytest.mark.parametrize("kind", ResourceType)
def test_an_answer_that_was_accepted_is_not_sent_again(peer: Peer, kind: ResourceType) -> None:
    peer.fetch(kind, NAME, "orders")
    peer.show(
        workload("orders", ORDERS, at=[HERE]),
        workload("catalog", CATALOG, at=[THERE]),
        workload("vault", HIDDEN, at=["10.0.0.1:1"]),
    )
    assert peer.next() is None


def test_what_nobody_asked_for_is_not_sent(peer: Peer) -> None:
    assert peer.next() is None
    peer.fetch(ENDPOINTS, "orders")
    peer.show(workload("orders", ORDERS, at=[HERE]), workload("catalog", CATALOG, at=["127.0.0.1:9"]))
    assert peer.next() is None


def test_endpoints_that_changed_are_sent_alone(peer: Peer) -> None:
    peer.fetch(ENDPOINTS, "orders", "catalog")
    peer.show(workload("orders", ORDERS, at=[HERE, THERE]), workload("catalog", CATALOG, at=[THERE]))
    assert endpoints(peer.expect()) == {"orders": [1001, 1002]}


def test_clusters_are_sent_whole_when_one_is_new(peer: Peer) -> None:
    assert names(peer.fetch(CLUSTER, "orders")) == ["orders"]
    assert names(peer.fetch(CLUSTER, "orders", "catalog")) == ["catalog", "orders"]


def test_a_hidden_name_is_answered_as_an_unknown_one(peer: Peer) -> None:
    """Byte for byte, but for what differs between any two answers."""
    for kind in ResourceType:
        hidden, unknown = Peer(), Peer()
        hidden.ask(kind, "vault")
        unknown.ask(kind, "unknown")
        assert hidden.next() == unknown.next()


def test_endpoints_that_vanish_are_told_to_be_none_and_once(peer: Peer) -> None:
    peer.fetch(ENDPOINTS, "orders", "catalog")
    peer.show(workload("catalog", CATALOG, at=[THERE]))
    response = peer.expect()
    assert endpoints(response) == {"orders": []}
    peer.answer(response)
    assert peer.next() is None


def test_endpoints_a_caller_may_no_longer_see_are_told_to_be_none(peer: Peer) -> None:
    peer.fetch(ENDPOINTS, "orders")
    peer.show(workload("orders", contract("shop.Orders", Place=["somebody"]), at=[HERE, THERE]))
    assert endpoints(peer.expect()) == {"orders": []}


def test_endpoints_that_come_back_are_sent(peer: Peer) -> None:
    peer.fetch(ENDPOINTS, "orders")
    peer.show()
    peer.answer(peer.expect())
    peer.show(workload("orders", ORDERS, at=[HERE]))
    assert endpoints(peer.expect()) == {"orders": [1001]}


def test_a_route_is_gone_before_its_cluster(peer: Peer) -> None:
    peer.fetch(CLUSTER, "orders", NOWHERE)
    peer.fetch(ENDPOINTS, "orders", NOWHERE)
    peer.fetch(ROUTES, NAME)
    peer.show()
    responses = [peer.expect() for _ in range(3)]
    assert peer.next() is None
    assert [ResourceType(each.type_url) for each in responses] == [ROUTES, CLUSTER, ENDPOINTS]
    assert b"orders" not in responses[0].SerializeToString()
    assert names(responses[1]) == [NOWHERE]
    assert endpoints(responses[2]) == {"orders": []}


def test_a_name_given_up_and_asked_for_again_is_sent_again(peer: Peer) -> None:
    """The client forgot it when it gave it up."""
    first = peer.fetch(ENDPOINTS, "orders", "catalog")
    peer.ask(ENDPOINTS, "catalog", nonce=first.nonce)
    assert peer.next() is None
    peer.ask(ENDPOINTS, "catalog", "orders", nonce=first.nonce)
    assert endpoints(peer.expect()) == {"orders": [1001]}


def test_a_name_added_that_is_unknown_is_answered_too(peer: Peer) -> None:
    first = peer.fetch(ENDPOINTS, "orders")
    peer.ask(ENDPOINTS, "orders", "nobody", nonce=first.nonce)
    assert endpoints(peer.expect()) == {}
    assert peer.next() is None


def test_a_request_that_crossed_a_response_changes_nothing(peer: Peer) -> None:
    first = peer.fetch(ENDPOINTS, "orders")
    peer.show(workload("orders", ORDERS, at=[THERE]), workload("catalog", CATALOG, at=[THERE]))
    second = peer.expect()
    peer.ask(ENDPOINTS, "catalog", nonce=first.nonce)
    assert peer.next() is None
    assert peer.record.names(ENDPOINTS) == {"orders"}
    peer.ask(ENDPOINTS, "catalog", nonce=second.nonce)
    assert endpoints(peer.expect()) == {"catalog": [1002]}


def test_no_names_mean_everything_until_names_were_given(peer: Peer) -> None:
    assert names(peer.fetch(CLUSTER)) == ["catalog", NOWHERE, "orders"]
    named = peer.fetch(ResourceType.LISTENER, NAME)
    peer.ask(ResourceType.LISTENER, nonce=named.nonce)
    assert peer.next() is None
    assert peer.record.names(ResourceType.LISTENER) == frozenset()


def test_everything_includes_what_comes_later_and_a_star_says_it_too(peer: Peer) -> None:
    peer.fetch(CLUSTER, "*")
    assert peer.state(CLUSTER).names == ["*"]
    peer.show(
        workload("orders", ORDERS), workload("catalog", CATALOG), workload("new", contract("n.N", Do=["*"]))
    )
    assert names(peer.expect()) == ["catalog", NOWHERE, "new", "orders"]


def test_no_names_mean_nothing_for_routes_and_endpoints(peer: Peer) -> None:
    assert names(peer.fetch(ENDPOINTS)) == []
    assert names(peer.fetch(ROUTES)) == []


def test_a_nonce_of_an_earlier_stream_is_no_obstacle(peer: Peer) -> None:
    peer.ask(ENDPOINTS, "orders", nonce="17")
    assert endpoints(peer.expect()) == {"orders": [1001]}
