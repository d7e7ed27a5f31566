"""What operators may ask, what it does, and what is refused with which words."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from hauberk.certs.errors import ChainError
from hauberk.protos.hauberk.control.v1 import admin_pb2, enrolment_pb2
from tests.control.core_mesh import (
    CATALOG,
    PAYMENTS,
    SERVING,
    CoreMesh,
    Workload,
    invitation,
    reason_of,
    spiffe,
)

PREPARE, ACTIVATE, RETIRE = (
    admin_pb2.RollRootRequest.STEP_PREPARE,
    admin_pb2.RollRootRequest.STEP_ACTIVATE,
    admin_pb2.RollRootRequest.STEP_RETIRE,
)


@pytest.fixture
async def operator(mesh: CoreMesh) -> Workload:
    return await mesh.operator()


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code(), reason_of(refused.value), refused.value.details() or ""


async def roll(operator: Workload, *steps: Any) -> list[str]:
    """The states of the roots after these steps."""
    for step in steps:
        response = await operator.admin.RollRoot(admin_pb2.RollRootRequest(step=step))
    return [root.state for root in response.roots]


@pytest.mark.parametrize(
    "method",
    ["Invite", "Revoke", "Reinstate", "ListReplicas", "ListPolicies", "ListClients", "ListRoots", "RollRoot"],
)
async def test_only_operators_may_ask(mesh: CoreMesh, method: str) -> None:
    workload = await mesh.join("catalog", [CATALOG])
    request = getattr(admin_pb2, f"{method}Request")()
    code, reason, _ = await refusal(getattr(workload.admin, method)(request))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")


async def test_an_invitation_lets_one_workload_in(mesh: CoreMesh, operator: Workload) -> None:
    response = await operator.admin.Invite(invitation("prod/orders", CATALOG))
    assert response.spiffe_id == str(spiffe("prod/orders"))
    left = response.expires_at.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(minutes=9) < left <= timedelta(minutes=10)
    admission = await mesh.enrol(response.join_token)
    assert str(admission.credentials.svid.spiffe_id) == response.spiffe_id
    await mesh.as_(admission.credentials).announce()


async def test_an_operator_may_invite_another(mesh: CoreMesh, operator: Workload) -> None:
    response = await operator.admin.Invite(invitation("operators/ada"))
    other = mesh.as_((await mesh.enrol(response.join_token)).credentials)
    assert (await other.admin.ListRoots(admin_pb2.ListRootsRequest())).roots


async def test_a_token_for_a_restart_reads_no_contracts(mesh: CoreMesh, operator: Workload) -> None:
    await operator.admin.Invite(invitation("catalog", CATALOG))
    again = admin_pb2.InviteRequest(name="catalog", serves=["not read"], keep_bindings=True)
    await operator.admin.Invite(again)
    assert mesh.plane.roster.bindings == {CATALOG: spiffe("catalog")}


async def test_a_contract_moves_once_its_name_was_invited_without_it(
    mesh: CoreMesh, operator: Workload
) -> None:
    await operator.admin.Invite(invitation("catalog", CATALOG, PAYMENTS))
    code, reason, message = await refusal(operator.admin.Invite(invitation("payments", PAYMENTS)))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONTRACT_BOUND_ELSEWHERE")
    assert f"{PAYMENTS} is bound to {spiffe('catalog')}; to free it: hauberk invite catalog, with" in message
    await operator.admin.Invite(invitation("catalog", CATALOG))
    await operator.admin.Invite(invitation("payments", PAYMENTS))
    assert mesh.plane.roster.bindings[PAYMENTS] == spiffe("payments")


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (invitation(""), "path"),
        (invitation("Orders"), "lower-case"),
        (invitation("a//b"), "lower-case"),
        (invitation("../control"), "lower-case"),
        (invitation("or_ders"), "not a dns label"),
        (invitation("a.b"), "not a dns label"),
        (invitation("control"), "reserved for the control plane"),
        (invitation("control/x"), "reserved for the control plane"),
        (invitation("orders", "not a name"), "not a protobuf service's full name"),
        (invitation("orders", "hauberk.control.v1.Admin"), "bound to nobody"),
        (invitation("orders", "grpc.health.v1.Health"), "bound to nobody"),
        (invitation("operators/ada", CATALOG), "operators serve nothing"),
        (admin_pb2.InviteRequest(name="orders", ttl=Duration(seconds=0)), "ttl is not over 0"),
        (admin_pb2.InviteRequest(name="orders", ttl=Duration(seconds=-1)), "ttl is not over 0"),
        (admin_pb2.InviteRequest(name="orders", ttl=Duration(seconds=86401)), "at most a day"),
        (admin_pb2.InviteRequest(name="orders", ttl=Duration(seconds=2**62)), "at most a day"),
    ],
)
async def test_an_invitation_that_makes_no_sense_is_refused(
    mesh: CoreMesh, operator: Workload, request_: admin_pb2.InviteRequest, says: str
) -> None:
    code, _, message = await refusal(operator.admin.Invite(request_))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert says in message
    assert mesh.plane.roster.bindings == {}


async def test_a_revoked_name_cannot_be_invited(operator: Workload) -> None:
    await operator.admin.Revoke(admin_pb2.RevokeRequest(name="orders", reason="stolen"))
    code, reason, message = await refusal(operator.admin.Invite(invitation("orders")))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "REVOKED")
    assert "orders was revoked at" in message


async def test_a_revocation_reaches_everybody_at_once(mesh: CoreMesh, operator: Workload) -> None:
    """Its own calls and streams, callers' snapshots, and every other process's trust."""
    catalog, payments = await mesh.join("catalog", [CATALOG]), await mesh.join("payments")
    announced = await catalog.announce()
    own = catalog.identity.WatchTrust(enrolment_pb2.WatchTrustRequest())
    others = payments.identity.WatchTrust(enrolment_pb2.WatchTrustRequest())
    assert [(await watch.read()).revoked for watch in (own, others)] == [[], []]
    response = await operator.admin.Revoke(admin_pb2.RevokeRequest(name="catalog", reason="stolen"))
    assert response.spiffe_id == str(spiffe("catalog"))
    assert (await others.read()).revoked == [str(spiffe("catalog"))]
    assert await own.code() is grpc.StatusCode.UNAUTHENTICATED
    assert (await announced.ended())[0] is grpc.StatusCode.UNAUTHENTICATED
    assert mesh.listed() == {}
    assert mesh.plane.publisher.snapshots.value.revoked == {str(spiffe("catalog"))}
    code, reason, _ = await refusal(
        catalog.identity.Renew(enrolment_pb2.RenewRequest(certificate_request=b"never read"))
    )
    assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "REVOKED")


async def test_a_revoked_operator_asks_nothing_more(mesh: CoreMesh, operator: Workload) -> None:
    other = await mesh.join("operators/ada")
    await operator.admin.Revoke(admin_pb2.RevokeRequest(name="operators/ada"))
    code, reason, _ = await refusal(other.admin.ListRoots(admin_pb2.ListRootsRequest()))
    assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "REVOKED")


@pytest.mark.parametrize(
    ("name", "reason", "says"),
    [
        ("operators/local", "", "cannot revoke its own name"),
        ("control", "", "cannot be revoked"),
        ("Orders", "", "lower-case"),
        ("orders", "x" * 201, "at most 200 printable"),
        ("orders", "a\nforged log line", "at most 200 printable"),
    ],
)
async def test_a_revocation_that_makes_no_sense_is_refused(
    mesh: CoreMesh, operator: Workload, name: str, reason: str, says: str
) -> None:
    code, _, message = await refusal(operator.admin.Revoke(admin_pb2.RevokeRequest(name=name, reason=reason)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert says in message
    assert mesh.plane.source.trust.value.revoked == frozenset()


async def test_replicas_are_listed_as_they_announced_themselves(mesh: CoreMesh, operator: Workload) -> None:
    catalog = await mesh.join("catalog", [CATALOG])
    await catalog.announce(agent="hauberk 0.1.0 python 3.11.7", replica="b", address="127.0.0.1:4002")
    await catalog.announce(replica="a")
    response = await operator.admin.ListReplicas(admin_pb2.ListReplicasRequest())
    first, second = response.replicas
    assert (first.replica, second.replica) == ("a", "b")
    assert second.spiffe_id == str(spiffe("catalog"))
    assert (second.address, second.status) == ("127.0.0.1:4002", SERVING)
    assert (list(second.contracts), second.agent) == ([CATALOG], "hauberk 0.1.0 python 3.11.7")
    assert second.svid_expires_at.ToDatetime(UTC) == catalog.credentials.svid.expires_at


async def test_policies_are_listed_as_replicas_enforce_them(mesh: CoreMesh, operator: Workload) -> None:
    catalog = await mesh.join("catalog", [CATALOG])
    await catalog.announce()
    everything = await operator.admin.ListPolicies(admin_pb2.ListPoliciesRequest())
    one = f"/{CATALOG}/GetProduct"
    [found] = (await operator.admin.ListPolicies(admin_pb2.ListPoliciesRequest(filter=one))).methods
    assert found in everything.methods
    assert len(everything.methods) > 3
    assert found.policy.callers
    assert found.origin in ("method option", "service defaults")
    assert found.idempotency == "no_side_effects"
    assert list(found.replicas) == [f"{spiffe('catalog')}#1"]
    assert found.version == mesh.listed()["catalog#1"].policy_versions[CATALOG]
    by_service = await operator.admin.ListPolicies(admin_pb2.ListPoliciesRequest(filter=CATALOG))
    assert by_service == everything
    other = await operator.admin.ListPolicies(admin_pb2.ListPoliciesRequest(filter=PAYMENTS))
    assert list(other.methods) == []


async def test_clients_are_listed_as_discovery_knows_them(operator: Workload) -> None:
    assert list((await operator.admin.ListClients(admin_pb2.ListClientsRequest())).clients) == []


async def test_roots_are_listed_with_their_state(mesh: CoreMesh, operator: Workload) -> None:
    [root] = (await operator.admin.ListRoots(admin_pb2.ListRootsRequest())).roots
    assert root.state == "active"
    assert len(root.fingerprint) == 64
    assert root.not_before.ToDatetime(UTC) < mesh.clock() < root.not_after.ToDatetime(UTC)


async def test_a_root_rolls_in_three_steps_that_everybody_follows(mesh: CoreMesh, operator: Workload) -> None:
    watch = operator.identity.WatchTrust(enrolment_pb2.WatchTrustRequest())
    old = mesh.plane.source.trust.value.bundle
    assert (await watch.read()).roots_pem.count(b"BEGIN") == 1
    assert await roll(operator, PREPARE) == ["active", "prepared"]
    told = await watch.read()
    assert (told.roots_pem.count(b"BEGIN"), told.intermediates_pem.count(b"BEGIN")) == (2, 2)
    await roll(operator, ACTIVATE)
    own = mesh.plane.source.credentials.value.svid
    with pytest.raises(ChainError):
        old.verify(own.chain, now=mesh.clock())
    fresh = await mesh.join("orders")
    with pytest.raises(ChainError):
        old.verify(fresh.credentials.svid.chain, now=mesh.clock())
    assert (await operator.admin.ListRoots(admin_pb2.ListRootsRequest())).roots  # the old still count


async def test_the_old_root_is_kept_while_certificates_under_it_live(
    mesh: CoreMesh, operator: Workload
) -> None:
    await roll(operator, PREPARE, ACTIVATE)
    retire = admin_pb2.RollRootRequest(step=RETIRE)
    code, reason, message = await refusal(operator.admin.RollRoot(retire))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OLD_ROOT_IN_USE")
    assert "1 certificates under the old root are still valid: retire after" in message


async def test_the_old_root_goes_when_the_last_certificate_under_it_has_ended(
    mesh: CoreMesh, operator: Workload
) -> None:
    await roll(operator, PREPARE, ACTIVATE)
    fresh = await mesh.operator()
    with mesh.plane.store.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM svids WHERE issued_at < (SELECT max(issued_at) FROM svids)")
    assert await roll(fresh, RETIRE) == ["active"]
    code, _, _ = await refusal(operator.admin.ListRoots(admin_pb2.ListRootsRequest()))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert (await fresh.admin.ListRoots(admin_pb2.ListRootsRequest())).roots


@pytest.mark.parametrize(
    ("before", "step", "says"),
    [
        ((), ACTIVATE, "the next step is prepare"),
        ((), RETIRE, "the next step is prepare"),
        ((PREPARE,), PREPARE, "the next step is activate"),
        ((PREPARE,), RETIRE, "the next step is activate"),
        ((PREPARE, ACTIVATE), PREPARE, "the next step is retire"),
        ((PREPARE, ACTIVATE), ACTIVATE, "the next step is retire"),
    ],
)
async def test_a_step_out_of_turn_is_refused_and_the_right_one_named(
    operator: Workload, before: tuple[Any, ...], step: Any, says: str
) -> None:
    if before:
        await roll(operator, *before)
    code, _, message = await refusal(operator.admin.RollRoot(admin_pb2.RollRootRequest(step=step)))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert says in message


async def test_no_step_is_no_step(operator: Workload) -> None:
    code, reason, _ = await refusal(operator.admin.RollRoot(admin_pb2.RollRootRequest()))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "STEP_REFUSED")


async def test_changes_asked_at_once_are_made_one_by_one(mesh: CoreMesh, operator: Workload) -> None:
    names = [f"w{n}" for n in range(12)]
    await asyncio.gather(*(operator.admin.Invite(invitation(name, f"p.{name.upper()}")) for name in names))
    assert mesh.plane.roster.bindings == {f"p.{name.upper()}": spiffe(name) for name in names}
    assert dict(mesh.plane.store.bindings()) == mesh.plane.roster.bindings
