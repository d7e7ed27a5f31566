"""Whom the next step of a root roll would cut off; and a revocation that is taken back."""

import asyncio
from collections.abc import Callable
from datetime import UTC, timedelta
from typing import Any

import grpc
import pytest

from hauberk.protos.hauberk.control.v1 import admin_pb2, enrolment_pb2
from tests.control.core_mesh import (
    CALL_S,
    CATALOG,
    PAYMENTS,
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
    """One that has heard of each step."""
    operator = await mesh.operator()
    await listens(operator)
    return operator


async def listens(workload: Workload) -> Any:
    """Its trust stream, which it goes on reading."""
    watch = workload.identity.WatchTrust(enrolment_pb2.WatchTrustRequest())
    await watch.read()
    return watch


async def stands(operator: Workload) -> admin_pb2.RootRoll:
    roll: admin_pb2.RootRoll = (await operator.admin.ListRoots(admin_pb2.ListRootsRequest())).roll
    return roll


async def take(operator: Workload, *steps: Any) -> admin_pb2.RootRoll:
    for step in steps:
        await operator.admin.RollRoot(admin_pb2.RollRootRequest(step=step))
    return await stands(operator)


async def until(operator: Workload, holds: Callable[[set[str]], bool]) -> set[str]:
    """The names that the next step waits for, once they are as wanted: being told takes a moment."""
    async with asyncio.timeout(CALL_S):
        while True:
            names = {each.spiffe_id for each in (await stands(operator)).waiting_for}
            if holds(names):
                return names
            await asyncio.sleep(0.02)


async def test_a_mesh_that_rolls_nothing_waits_for_nobody(mesh: CoreMesh, operator: Workload) -> None:
    await mesh.join("orders")
    roll = await stands(operator)
    assert (roll.next, list(roll.waiting_for)) == (PREPARE, [])


async def test_activate_waits_for_who_was_not_told_of_the_new_root(
    mesh: CoreMesh, operator: Workload
) -> None:
    deaf, hearing = await mesh.join("orders"), await mesh.join("payments")
    await listens(hearing)
    roll = await take(operator, PREPARE)
    assert roll.next == ACTIVATE
    assert roll.settle.ToTimedelta() >= timedelta(seconds=1)
    await until(operator, lambda names: names == {str(spiffe("orders"))})
    (held,) = (await stands(operator)).waiting_for
    assert held.certificates == 1
    assert held.until.ToDatetime(UTC) == deaf.credentials.svid.expires_at
    watch = await listens(deaf)
    await until(operator, lambda names: not names)
    watch.cancel()
    await until(operator, lambda names: names == {str(spiffe("orders"))})
    await mesh.join("late")
    assert {each.spiffe_id for each in (await stands(operator)).waiting_for} == {str(spiffe("orders"))}


async def test_activate_waits_for_each_process_of_a_name(mesh: CoreMesh, operator: Workload) -> None:
    catalog = await mesh.join("catalog", [CATALOG])
    first = await listens(catalog)
    await catalog.announce(replica="1", address="127.0.0.1:4001")
    await catalog.announce(replica="2", address="127.0.0.1:4002")
    await take(operator, PREPARE)
    await first.read()
    await until(operator, lambda names: names == {str(spiffe("catalog"))})
    await listens(catalog)
    await until(operator, lambda names: not names)


async def test_activate_waits_for_a_process_that_is_cut_off_and_may_live(
    mesh: CoreMesh, operator: Workload
) -> None:
    catalog = await mesh.join("catalog", [CATALOG])
    near, far = await listens(catalog), await listens(catalog)
    await catalog.announce(replica="1", address="127.0.0.1:4001")
    cut_off = await catalog.announce(replica="2", address="127.0.0.1:4002")
    far.cancel()
    cut_off.call.cancel()
    await mesh.until_listed("catalog#1")
    await take(operator, PREPARE)
    assert (await near.read()).version
    await asyncio.sleep(0.2)  # whoever listens has been told by then
    assert {each.spiffe_id for each in (await stands(operator)).waiting_for} == {str(spiffe("catalog"))}
    await catalog.announce(replica="2", address="127.0.0.1:4002")
    await listens(catalog)
    await until(operator, lambda names: not names)


async def test_retire_waits_for_certificates_of_the_old_root(mesh: CoreMesh, operator: Workload) -> None:
    catalog = await mesh.join("catalog", [CATALOG])
    await catalog.announce(replica="7")
    roll = await take(operator, PREPARE, ACTIVATE)
    fresh = await mesh.join("orders")
    assert roll.next == RETIRE
    held = {each.spiffe_id: each for each in roll.waiting_for}
    assert set(held) == {str(spiffe("catalog")), str(spiffe("operators/local"))}
    assert list(held[str(spiffe("catalog"))].replicas) == ["7"]
    assert str(fresh.credentials.svid.spiffe_id) not in held
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await take(operator, RETIRE)
    assert reason_of(refused.value) == "OLD_ROOT_IN_USE"
    assert "of catalog, operators/local" in (refused.value.details() or "")


async def test_the_revoked_are_waited_for_no_more(mesh: CoreMesh, operator: Workload) -> None:
    await mesh.join("orders")
    await take(operator, PREPARE)
    await until(operator, lambda names: names == {str(spiffe("orders"))})
    await operator.admin.Revoke(admin_pb2.RevokeRequest(name="orders"))
    await until(operator, lambda names: not names)


async def test_a_revocation_is_taken_back_when_no_old_certificate_lives(
    mesh: CoreMesh, operator: Workload
) -> None:
    await mesh.join("catalog", [CATALOG])
    await operator.admin.Revoke(admin_pb2.RevokeRequest(name="catalog"))
    again = admin_pb2.ReinstateRequest(name="catalog")
    with pytest.raises(grpc.aio.AioRpcError) as early:
        await operator.admin.Reinstate(again)
    assert (early.value.code(), reason_of(early.value)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "OLD_SVID_VALID",
    )
    mesh.clock.ahead = timedelta(hours=1, seconds=1)
    mesh.plane._look_at_clock()
    with pytest.raises(grpc.aio.AioRpcError) as doubtful:
        await operator.admin.Reinstate(again)
    assert reason_of(doubtful.value) == "CLOCK_SET", "set right again, it would find them good once more"
    mesh.plane._set_clock.ahead = timedelta(0)  # and now the hour has passed, and nobody set the clock
    assert (await operator.admin.Reinstate(again)).spiffe_id == str(spiffe("catalog"))
    mesh.clock.ahead = timedelta(0)
    assert mesh.plane.source.trust.value.revoked == frozenset()
    await (await mesh.join("catalog", [CATALOG])).announce()
    await mesh.until_listed("catalog#1")
    with pytest.raises(grpc.aio.AioRpcError) as twice:
        await operator.admin.Reinstate(again)
    assert reason_of(twice.value) == "NOT_REVOKED"


async def test_contracts_of_the_revoked_are_withdrawn_until_they_are_bound_anew(
    mesh: CoreMesh, operator: Workload
) -> None:
    for contract, name in ((CATALOG, "catalog"), (PAYMENTS, "payments")):
        await operator.admin.Invite(invitation(name, contract))
    watch = operator.identity.WatchTrust(enrolment_pb2.WatchTrustRequest())
    first = await watch.read()
    assert list(first.withdrawn_contracts) == []
    await operator.admin.Revoke(admin_pb2.RevokeRequest(name="catalog"))
    second = await watch.read()
    assert list(second.withdrawn_contracts) == [CATALOG]
    await operator.admin.Invite(invitation("catalog-2", CATALOG))
    third = await watch.read()
    assert list(third.withdrawn_contracts) == []
    assert len({first.version, second.version, third.version}) == 3
