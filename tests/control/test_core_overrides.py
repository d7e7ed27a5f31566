"""Operators' overrides in the control plane: what is taken, kept, told to whom, and shown."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.overrides import NONE, Overrides
from hauberk.protos.hauberk.control.v1 import admin_pb2, overrides_pb2, overrides_pb2_grpc
from hauberk.protos.hauberk.policy.v1 import override_pb2, policy_pb2
from hauberk.services.control import overriding
from hauberk.services.control.override_store import OverrideStore
from hauberk.services.control.settings import ConfigError
from tests.control.core_mesh import CATALOG, CoreMesh, Workload, core_mesh, reason_of

GET = f"/{CATALOG}/GetProduct"


def said(method: str = GET, *callers: str, shadow: bool = False) -> override_pb2.Override:
    found = override_pb2.Override(
        method=method, fields=["callers"], policy=policy_pb2.Policy(callers=callers)
    )
    found.shadow.extend(["callers"] if shadow else [])
    return found


class Ear:
    """A process that hears of overrides, and says what the test tells it to say."""

    def __init__(self, workload: Workload, replica: str = "1") -> None:
        self.call: Any = overrides_pb2_grpc.OverridesStub(workload.channel).WatchOverrides()
        self.replica = replica

    async def open(self) -> overrides_pb2.WatchOverridesResponse:
        await self.call.write(overrides_pb2.WatchOverridesRequest(replica=self.replica))
        return await self.hear()

    async def hear(self) -> overrides_pb2.WatchOverridesResponse:
        async with asyncio.timeout(5):
            heard: overrides_pb2.WatchOverridesResponse = await self.call.read()
        return heard

    async def say(self, version: str, refused: str = "") -> None:
        await self.call.write(overrides_pb2.WatchOverridesRequest(version=version, refused=refused))

    async def agree(self) -> overrides_pb2.WatchOverridesResponse:
        heard = await self.hear()
        await self.say(heard.version)
        return heard


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[CoreMesh]:
    async with core_mesh(tmp_path / "state") as mesh:
        yield mesh


async def apply(operator: Workload, *overrides: override_pb2.Override) -> admin_pb2.ApplyOverridesResponse:
    request = admin_pb2.ApplyOverridesRequest(overrides=overrides)
    answer: admin_pb2.ApplyOverridesResponse = await operator.admin.ApplyOverrides(request, timeout=10)
    return answer


async def test_who_serves_is_asked_first_then_told(mesh: CoreMesh) -> None:
    ear = Ear(await mesh.join("catalog", [CATALOG]))
    first = await ear.open()
    assert (list(first.overrides), first.version, first.trial) == ([], NONE.version, False)
    await ear.say(first.version)
    applying = asyncio.create_task(apply(await mesh.operator(), said(GET, "orders")))
    asked, told = await ear.agree(), await ear.agree()
    assert (asked.trial, told.trial, asked.version) == (True, False, told.version)
    assert list(told.overrides) == [said(GET, "orders")]
    answer = await applying
    assert (list(answer.changed), list(answer.enforced_by)) == ([GET], ["spiffe://shop.test/catalog#1"])
    assert (answer.version, list(answer.late)) == (Overrides.of([said(GET, "orders")]).version, [])


async def test_one_no_and_nothing_changes(mesh: CoreMesh) -> None:
    ear = Ear(await mesh.join("catalog", [CATALOG]))
    await ear.say((await ear.open()).version)
    applying = asyncio.create_task(apply(await mesh.operator(), said(GET, "orders")))
    await ear.say((await ear.hear()).version, "it has no such method")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await applying
    assert (caught.value.code().name, reason_of(caught.value)) == ("FAILED_PRECONDITION", "OVERRIDES_UNFIT")
    assert caught.value.details() == "catalog#1 cannot enforce it: it has no such method"
    assert mesh.plane.overriding.in_force == NONE
    assert OverrideStore(mesh.plane.store.engine).load() == NONE


async def test_who_does_not_answer_holds_up_nobody_for_long(
    mesh: CoreMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overriding, "ANSWER_S", 0.1)
    ear = Ear(await mesh.join("catalog", [CATALOG]))
    await ear.say((await ear.open()).version)
    answer = await apply(await mesh.operator(), said(GET, "orders"))
    assert (list(answer.enforced_by), list(answer.late)) == ([], ["spiffe://shop.test/catalog#1"])
    assert mesh.plane.overriding.in_force.declared() == [said(GET, "orders")]


async def test_who_leaves_is_waited_for_no_longer(mesh: CoreMesh) -> None:
    ear = Ear(await mesh.join("catalog", [CATALOG]))
    await ear.say((await ear.open()).version)
    applying = asyncio.create_task(apply(await mesh.operator(), said(GET, "orders")))
    await ear.hear()
    ear.call.cancel()
    assert list((await applying).changed) == [GET]


async def test_nobody_hears_of_contracts_that_are_not_its_own(mesh: CoreMesh) -> None:
    ear = Ear(await mesh.join("payments"))
    await ear.say((await ear.open()).version)
    answer = await apply(await mesh.operator(), said(GET, "orders"))
    assert list(answer.enforced_by) == []
    assert list((await Ear(await mesh.join("other")).open()).overrides) == []
    catalog = Ear(await mesh.join("catalog", [CATALOG]))
    assert list((await catalog.open()).overrides) == [said(GET, "orders")]


async def test_who_is_invited_to_serve_a_contract_hears_of_its_overrides_at_once(mesh: CoreMesh) -> None:
    operator, ear = await mesh.operator(), Ear(await mesh.join("catalog"))
    await apply(operator, said(GET, "orders"))
    first = await ear.open()
    assert list(first.overrides) == []
    await ear.say(first.version)
    await operator.admin.Invite(admin_pb2.InviteRequest(name="catalog", serves=[CATALOG]), timeout=5)
    assert list((await ear.hear()).overrides) == [said(GET, "orders")]


async def test_the_listing_shows_who_enforces_what(mesh: CoreMesh) -> None:
    catalog, operator = await mesh.join("catalog", [CATALOG]), await mesh.operator()
    for number, replica in enumerate(("1", "2")):
        await catalog.announce(replica=replica, address=f"127.0.0.1:400{number}")
    ear = Ear(catalog)
    await ear.say((await ear.open()).version)
    applying = asyncio.create_task(apply(operator, said(GET, "orders", shadow=True)))
    await ear.agree()
    await ear.agree()
    await applying
    request = admin_pb2.ListPoliciesRequest(filter=GET)
    plain, tried = sorted(
        (await operator.admin.ListPolicies(request)).methods, key=lambda one: len(one.tried)
    )
    assert (list(plain.replicas), list(plain.overridden)) == (["spiffe://shop.test/catalog#2"], [])
    assert (list(tried.replicas), list(tried.tried)) == (["spiffe://shop.test/catalog#1"], ["callers"])
    assert list(tried.shadow.callers) == ["orders"]
    assert tried.policy == tried.declared == plain.policy
    assert tried.version == plain.version


BROKEN = {
    "no override": (override_pb2.Override(), "not a method"),
    "a caller": (said(GET, "Orders"), "not a caller"),
    "of control itself": (said("/hauberk.control.v1.Admin/Revoke", "*"), "the control plane's own"),
    "of every server": (
        said("/grpc.health.v1.Health/Check", "*"),
        "the control plane's own, or every server's",
    ),
}


@pytest.mark.parametrize("which", BROKEN)
async def test_what_is_no_override_is_refused_whole(mesh: CoreMesh, which: str) -> None:
    broken, why = BROKEN[which]
    operator = await mesh.operator()
    await apply(operator, said(GET, "gateway"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await apply(operator, said(GET, "orders"), broken)
    assert (caught.value.code().name, reason_of(caught.value)) == ("INVALID_ARGUMENT", "OVERRIDES_REFUSED")
    assert why in (caught.value.details() or "")
    assert mesh.plane.overriding.in_force.declared() == [said(GET, "gateway")]


async def test_a_thousand_are_taken_kept_and_told_at_once(mesh: CoreMesh) -> None:
    many = [
        said(f"/{CATALOG}/Method{number:04}", *(f"caller-{each}" for each in range(20)))
        for number in range(1000)
    ]
    ear = Ear(await mesh.join("catalog", [CATALOG]))
    await ear.say((await ear.open()).version)
    applying = asyncio.create_task(apply(await mesh.operator(), *many))
    asked = await ear.agree()
    assert (asked.trial, len(asked.overrides)) == (True, 1000)
    assert list((await ear.agree()).overrides) == many
    assert len((await applying).changed) == 1000
    with pytest.raises(grpc.aio.AioRpcError, match="1001 overrides, at most 1000 are taken"):
        await apply(await mesh.operator(), *many, said(GET, "orders"))


async def test_workloads_may_override_nothing(mesh: CoreMesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await apply(await mesh.join("catalog", [CATALOG]), said(GET, "*"))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_they_outlive_a_restart_with_who_said_them(tmp_path: Path) -> None:
    async with core_mesh(tmp_path / "state") as mesh:
        await apply(await mesh.operator(), said(GET, "orders"), said(f"/{CATALOG}/ListProducts", "orders"))
        await apply(await mesh.operator(), said(GET, "orders"))
    async with core_mesh(tmp_path / "state") as mesh:
        assert mesh.plane.overriding.in_force.declared() == [said(GET, "orders")]
        with mesh.plane.store.engine.connect() as connection:
            (row,) = connection.exec_driver_sql("SELECT method, changed_by FROM overrides").all()
        assert tuple(row) == (GET, "spiffe://shop.test/operators/local")


async def test_one_that_this_build_cannot_read_stops_the_start(tmp_path: Path) -> None:
    """It may be all that keeps somebody from a method."""
    newer = override_pb2.Override(method=GET, fields=["callers", "locality"]).SerializeToString()
    async with core_mesh(tmp_path / "state") as mesh:
        await apply(await mesh.operator(), said(GET, "orders"))
        with mesh.plane.store.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE overrides SET override = ?", (newer,))
        with pytest.raises(PolicyError):
            OverrideStore(mesh.plane.store.engine).load()
    with pytest.raises(ConfigError, match="'locality' cannot be overridden"):
        async with core_mesh(tmp_path / "state"):
            pass


@pytest.mark.parametrize("replica", ["", "x" * 65, "a\nb"])
async def test_a_stream_without_a_replicas_name_is_refused(mesh: CoreMesh, replica: str) -> None:
    ear = Ear(await mesh.join("catalog", [CATALOG]), replica)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ear.open()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_answer_to_nothing_ends_the_stream(mesh: CoreMesh) -> None:
    ear = Ear(await mesh.join("catalog", [CATALOG]))
    first = await ear.open()
    await ear.say(first.version)
    await ear.say(first.version)
    assert await ear.call.code() is grpc.StatusCode.INVALID_ARGUMENT
