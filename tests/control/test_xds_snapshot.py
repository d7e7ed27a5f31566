"""What the mesh looks like to whom, and that its version is its content."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.policy import Idempotency, Policy
from hauberk.services.control.snapshot import Contract, Snapshot, Status, Visible, parse_address
from tests.control.xds_mesh import contract, replica, snapshot, spiffe, workload

ORDERS = contract("shop.Orders", Place=["gateway"], Get=["gateway", "batch/*"], again=["Get"])
CATALOG = contract("shop.Catalog", List=["orders"])
HERE, THERE = "127.0.0.1:1001", "127.0.0.1:1002"


def mesh() -> Snapshot:
    return snapshot(workload("orders", ORDERS, at=[HERE]), workload("catalog", CATALOG, at=[THERE]))


def paths(visible: Visible) -> list[str]:
    return [method.path for method in visible.methods]


def test_a_caller_sees_the_methods_it_may_call_and_no_others() -> None:
    assert paths(mesh().visible(spiffe("gateway"))) == ["/shop.Orders/Get", "/shop.Orders/Place"]
    assert paths(mesh().visible(spiffe("batch/night/1"))) == ["/shop.Orders/Get"]
    assert paths(mesh().visible(spiffe("orders"))) == ["/shop.Catalog/List"]


def test_a_stranger_sees_nothing() -> None:
    assert mesh().visible(spiffe("stranger")) == Visible()
    assert mesh().visible(SpiffeId.of("elsewhere.test", "gateway")) == Visible()


def test_callers_who_may_call_the_same_see_the_same() -> None:
    assert mesh().visible(spiffe("batch/1")) == mesh().visible(spiffe("batch/2"))


def test_a_method_for_anybody_is_seen_by_all() -> None:
    policy = Policy(method="/open.House/Enter", anonymous=True)
    house = Contract(service="open.House", methods={"Enter": policy}, version="1")
    assert paths(snapshot(workload("house", house)).visible(spiffe("stranger"))) == ["/open.House/Enter"]


def test_health_is_seen_of_workloads_whose_methods_are() -> None:
    assert mesh().visible(spiffe("gateway")).health == ("orders",)
    assert mesh().visible(spiffe("gateway")).reflection == ()


def test_an_operator_sees_health_and_reflection_of_all_but_only_its_own_methods() -> None:
    visible = mesh().visible(spiffe("operators/local"))
    assert visible.health == visible.reflection == ("catalog", "orders")
    assert visible.methods == ()


def test_only_what_the_contract_calls_idempotent_is_repeatable() -> None:
    repeatable = {each.path: each.repeatable for each in mesh().visible(spiffe("gateway")).methods}
    assert repeatable == {"/shop.Orders/Get": True, "/shop.Orders/Place": False}
    policy = replace(ORDERS.methods["Place"], idempotency=Idempotency.NO_SIDE_EFFECTS)
    reads = replace(ORDERS, methods={"Place": policy})
    assert snapshot(workload("orders", reads)).visible(spiffe("gateway")).methods[0].repeatable


def test_a_revoked_workload_is_gone_and_sees_nothing() -> None:
    revoked = snapshot(
        workload("orders", ORDERS, at=[HERE]),
        workload("catalog", CATALOG),
        revoked=[str(spiffe("orders"))],
    )
    assert list(revoked.workloads) == ["catalog"]
    assert revoked.visible(spiffe("orders")) == Visible()
    assert revoked.visible(spiffe("gateway")) == Visible()


def test_a_contract_of_two_workloads_belongs_to_neither() -> None:
    twice = snapshot(workload("orders", ORDERS), workload("orders2", ORDERS))
    assert twice.contested == {"shop.Orders"}
    assert all(method.contested for method in twice.visible(spiffe("gateway")).methods)


def test_the_same_content_has_the_same_version_in_any_order() -> None:
    here = workload("orders", ORDERS, CATALOG, at=[HERE, THERE])
    turned = replace(here, contracts=here.contracts[::-1], replicas=here.replicas[::-1])
    assert snapshot(here, workload("z")).version == snapshot(workload("z"), turned).version


def test_endpoints_change_the_version_but_not_that_of_the_contracts() -> None:
    before, after = snapshot(workload("orders", ORDERS)), snapshot(workload("orders", ORDERS, at=[HERE]))
    assert before.version != after.version
    assert before.contracts_version == after.contracts_version


@pytest.mark.parametrize(
    "other",
    [
        snapshot(workload("orders", contract("shop.Orders", Place=["gateway"], Get=["gateway"]))),
        snapshot(workload("orders", ORDERS, CATALOG)),
        snapshot(workload("orders", ORDERS), workload("empty")),
        snapshot(workload("orders", ORDERS), revoked=[str(spiffe("gateway"))]),
        snapshot(workload("orders")),
    ],
)
def test_whatever_decides_who_sees_what_changes_the_version_of_the_contracts(other: Snapshot) -> None:
    assert other.contracts_version != snapshot(workload("orders", ORDERS)).contracts_version


def test_a_status_changes_the_version() -> None:
    serving, draining = (
        snapshot(workload("orders", ORDERS, at=[HERE], status=each))
        for each in (Status.SERVING, Status.DRAINING)
    )
    assert serving.version != draining.version


def test_a_workload_listed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="listed twice"):
        snapshot(workload("orders"), workload("orders", ORDERS))


def test_a_workload_of_another_trust_domain_is_refused() -> None:
    with pytest.raises(ValueError, match="another trust domain"):
        Snapshot.of("elsewhere.test", [workload("orders")])


def test_a_policy_of_another_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r"given for /shop\.Orders/Cancel"):
        Contract(service="shop.Orders", methods={"Cancel": ORDERS.methods["Get"]}, version="1")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("[::1]:1", ("::1", 1)),
        ("[2001:DB8::0]:65535", ("2001:db8::", 65535)),
    ],
)
def test_an_address_is_an_ip_address_and_a_port(text: str, parsed: tuple[str, int]) -> None:
    assert parse_address(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:+5",
        "127.0.0.1:٥",
        "127.0.0.1:1_0",
        "127.0.0.1: 1",
        "orders.shop.test:50051",
        "localhost:50051",
        "::1:50051",
        "[127.0.0.1]:50051",
        "[::1:50051",
        "[fe80::1%eth0]:50051",
        "unix:/tmp/socket",
        "127.1:50051",
    ],
)
def test_any_other_address_keeps_a_replica_out(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        replica("orders", text)


@given(st.text(max_size=30))
def test_reading_an_address_raises_nothing_but_value_error(text: str) -> None:
    try:
        host, port = parse_address(text)
    except ValueError:
        return
    assert parse_address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") == (host, port)
