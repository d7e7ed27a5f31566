"""From one snapshot to the next, what is the same is taken over."""

from hauberk.services.control.snapshot import Status
from hauberk.services.control.xds.resource import ResourceType
from hauberk.services.control.xds.view import Resources
from tests.control.test_xds_resources import CATALOG, CONTROL, HIDDEN, ORDERS, mesh
from tests.control.xds_mesh import contract, snapshot, spiffe, workload


def test_resources_that_did_not_change_are_the_same_objects_later() -> None:
    before = Resources(mesh(), CONTROL)
    view = before.view(spiffe("gateway"))
    moved = snapshot(
        workload("orders", ORDERS, at=["127.0.0.1:7"]),
        workload("catalog", CATALOG),
        workload("prod/vault", HIDDEN, at=["10.9.8.7:6543"], status=Status.DRAINING),
    )
    after = Resources(moved, CONTROL, before)
    assert after.moved_since(before) == {"orders"}
    assert after.view(spiffe("gateway")) is view
    vault = after.view(spiffe("banker")), ResourceType.ENDPOINTS, "prod/vault"
    assert after.find(*vault) is before.find(*vault)


def test_a_new_contract_makes_new_views_only_for_those_who_see_it() -> None:
    before = Resources(mesh(), CONTROL)
    gateway, banker = before.view(spiffe("gateway")), before.view(spiffe("banker"))
    grown = snapshot(*mesh().workloads.values(), workload("loans", contract("bank.Loans", Grant=["banker"])))
    after = Resources(grown, CONTROL, before)
    assert after.view(spiffe("gateway")) is gateway
    assert after.view(spiffe("banker")) is not banker
    assert "loans" in after.view(spiffe("banker")).clusters
    assert after.moved_since(before) == {"loans"}


def test_a_vanished_workload_has_moved_and_is_known_no_more() -> None:
    before = Resources(mesh(), CONTROL)
    after = Resources(snapshot(workload("catalog", CATALOG)), CONTROL, before)
    assert after.moved_since(before) == {"orders", "prod/vault"}
    view = after.view(spiffe("gateway"))
    assert after.find(view, ResourceType.ENDPOINTS, "orders") is None
    assert after.find(view, ResourceType.CLUSTER, "orders") is None
