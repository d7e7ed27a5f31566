"""Whom workloads are told to trust, and the control plane's own SVID, which lives by the same rules."""

import asyncio
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from hauberk.enrolment import trust_of
from hauberk.protos.hauberk.control.v1 import admin_pb2, enrolment_pb2
from hauberk.services.control.attempts import BURST, FailedAttempts
from hauberk.services.control.errors import TooManyFailures
from tests.control.core_mesh import CATALOG, CoreMesh, core_mesh, spiffe

WATCH = enrolment_pb2.WatchTrustRequest()


async def test_trust_is_told_at_once_and_again_when_it_changes(mesh: CoreMesh) -> None:
    orders, operator = await mesh.join("orders"), await mesh.operator()
    watch = orders.identity.WatchTrust(WATCH)
    first = await watch.read()
    assert first.trust_domain == "shop.test"
    assert trust_of(first) == mesh.plane.source.trust.value
    await operator.admin.Revoke(admin_pb2.RevokeRequest(name="payments"))
    second = await watch.read()
    assert trust_of(second).revoked == {str(spiffe("payments"))}
    assert second.version != first.version
    await operator.admin.RollRoot(admin_pb2.RollRootRequest(step=admin_pb2.RollRootRequest.STEP_PREPARE))
    third = await watch.read()
    assert len(trust_of(third).bundle.anchors["shop.test"]) == 2
    assert third.version not in (first.version, second.version)


async def test_equal_trust_has_equal_versions(mesh: CoreMesh) -> None:
    orders = await mesh.join("orders")
    versions = {(await orders.identity.WatchTrust(WATCH).read()).version for _ in range(3)}
    assert len(versions) == 1


async def test_who_comes_late_is_told_the_latest(mesh: CoreMesh) -> None:
    operator = await mesh.operator()
    for name in ("a", "b"):
        await operator.admin.Revoke(admin_pb2.RevokeRequest(name=name))
    late = await operator.identity.WatchTrust(WATCH).read()
    assert list(late.revoked) == [str(spiffe("a")), str(spiffe("b"))]


async def test_streams_end_with_the_certificate_they_came_with(tmp_path: Path) -> None:
    """Connection age ends them before; this holds where that fails."""
    async with core_mesh(tmp_path / "state", svid_lifetime="10s") as mesh:
        mesh.clock.ahead = timedelta(seconds=-8)
        catalog = await mesh.join("catalog", [CATALOG])
        mesh.clock.ahead = timedelta(0)
        watch = catalog.identity.WatchTrust(WATCH)
        assert (await watch.read()).version
        async with asyncio.timeout(5):
            code, said = await watch.code(), await watch.details()
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "certificate expired" in said


async def test_its_own_svid_is_replaced_and_served(tmp_path: Path) -> None:
    async with core_mesh(tmp_path / "state", svid_lifetime="10s") as mesh:
        credentials = mesh.plane.source.credentials
        first = credentials.value.svid
        async with asyncio.timeout(10):
            await credentials.next(credentials.version)
        assert credentials.value.svid.leaf.serial_number != first.leaf.serial_number
        assert credentials.value.svid.expires_at > first.expires_at
        orders = await mesh.join("orders")
        call = orders.identity.WatchTrust(WATCH)
        assert (await call.read()).version
        assert credentials.value.svid.spiffe_id == spiffe("control")


async def test_its_own_svid_names_what_it_is_dialled_by(tmp_path: Path) -> None:
    async with core_mesh(tmp_path / "state") as mesh:
        leaf = mesh.plane.source.credentials.value.svid.leaf
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name.value) for name in names} == {
        "spiffe://shop.test/control",
        "control.shop.test",
        "127.0.0.1",
    }


def test_failures_of_one_address_run_out_and_come_back_with_time() -> None:
    now = 100.0
    attempts = FailedAttempts(clock=lambda: now)
    for _ in range(BURST):
        attempts.check("10.0.0.1")
        attempts.failed("10.0.0.1")
    with pytest.raises(TooManyFailures, match=r"from 10\.0\.0\.1; try again in 1 s"):
        attempts.check("10.0.0.1")
    attempts.check("10.0.0.2")
    now += 1
    attempts.check("10.0.0.1")
    attempts.failed("10.0.0.1")
    with pytest.raises(TooManyFailures):
        attempts.check("10.0.0.1")
    now += BURST
    attempts.check("10.0.0.1")


def test_addresses_that_failed_longest_ago_are_forgotten() -> None:
    attempts = FailedAttempts(clock=lambda: 100.0)
    for number in range(5000):
        attempts.failed(f"address {number}")
    assert len(attempts._failures) == 4096
    assert "address 0" not in attempts._failures
