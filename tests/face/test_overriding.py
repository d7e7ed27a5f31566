"""Operators' overrides through a real mesh: from the Admin service to the guards, to disk, and back."""

import asyncio
import json
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict

from hauberk.certs.errors import StoreError
from hauberk.entry import join
from hauberk.hints import reason_of
from hauberk.interceptors.demands import Priority
from hauberk.interceptors.errors import PolicyError
from hauberk.mesh import Mesh
from hauberk.overriding import FILE
from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.protos.hauberk.policy.v1 import override_pb2
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.server import MeshServer
from tests.face.control import CATALOG, Catalog, Control, admin, eventually, get_product
from tests.interceptors.token_forge import ISSUER, KID, Forge, jwk, jwks

GET = f"/{CATALOG}/GetProduct"
IN_FORCE_S = 1.0
"""What is promised."""


class PlainCatalog(catalog_pb2_grpc.CatalogServicer):
    """The same for a threaded server."""

    def GetProduct(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        return catalog_pb2.Product(sku=request.sku, name="plain")


async def serve(mesh: Mesh, kind: str = "asyncio") -> MeshServer:
    threaded = kind == "threaded"
    server: Any = mesh.threaded_server(workers=4) if threaded else mesh.server()
    servicer: Any = PlainCatalog() if threaded else Catalog()  # type: ignore[abstract]  # some are left out
    catalog_pb2_grpc.add_CatalogServicer_to_server(servicer, server)
    await server.start()
    made: MeshServer = server
    return made


def override(demands: Mapping[str, Any], *cleared: str, method: str = GET) -> override_pb2.Override:
    said = override_pb2.Override(method=method, fields=[*demands, *cleared])
    ParseDict(dict(demands), said.policy)
    return said


async def apply(operator: Any, *overrides: override_pb2.Override) -> admin_pb2.ApplyOverridesResponse:
    request = admin_pb2.ApplyOverridesRequest(overrides=overrides)
    answer: admin_pb2.ApplyOverridesResponse = await operator.ApplyOverrides(request, timeout=5)
    return answer


async def code(channel: grpc.aio.Channel, within: float | None = 5) -> str:
    """How one call ends: OK, or the reason of its refusal."""
    stub: Any = catalog_pb2_grpc.CatalogStub(channel)
    try:
        await stub.GetProduct(catalog_pb2.GetProductRequest(sku="ANVIL"), timeout=within)
    except grpc.aio.AioRpcError as error:
        return reason_of(error) or error.code().name
    return "OK"


KINDS: dict[str, tuple[Mapping[str, Any], str]] = {
    "callers": ({"callers": ["orders"]}, "CALLER_NOT_ALLOWED"),
    "deadline": ({"deadline": {"required": True}}, "DEADLINE_REQUIRED"),
    "token": ({"token": {}}, "TOKEN_MISSING"),
    "quota": ({"quota": [{"limit": 1, "per": "3600s"}]}, "QUOTA_SPENT"),
    "message": ({"message": {"max_bytes": 3}}, "MESSAGE_TOO_LARGE"),
}


@pytest.mark.parametrize("kind", ["asyncio", "threaded"])
async def test_each_kind_is_in_force_within_a_second_and_gone_again(
    control: Control, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "keys.json").write_bytes(jwks(jwk(Forge().key, KID)))
    (tmp_path / "issuers.toml").write_text(f'[tokens.login]\nissuer = "{ISSUER}"\njwks = "keys.json"\n')
    catalog = await control.member("catalog", token_issuers=tmp_path / "issuers.toml")
    server = await serve(catalog, kind)
    gateway = await control.member("gateway")
    direct = gateway.direct_channel("catalog", server.address)
    operator = await admin(control)
    for demands, reason in KINDS.values():
        assert await code(direct, None) == "OK"
        began = time.monotonic()
        answer = await apply(operator, override(demands))
        if "quota" in demands:
            assert await code(direct, None) == "OK"
        assert await code(direct, None) == reason
        assert time.monotonic() - began < IN_FORCE_S
        assert list(answer.enforced_by) == ["spiffe://shop.test/catalog#1"]
        began = time.monotonic()
        await apply(operator)
        assert await code(direct, None) == "OK"
        assert time.monotonic() - began < IN_FORCE_S
    await apply(operator, override({"priority": "PRIORITY_LOW", "audit": True}))
    found = server._guard.policies[GET]
    assert (found.priority, found.audit, found.overridden) == (Priority.LOW, True, ("priority", "audit"))
    assert await code(direct) == "OK"
    begun = (catalog.settings.state_dir / "audit" / "calls.log").read_text().splitlines()[0]
    assert json.loads(begun)["event.action"] == "begun"


async def test_callers_are_routed_by_what_is_overridden(control: Control) -> None:
    """Who is let in by an override finds the way, and who is shut out loses it."""
    await control.catalog()
    gateway, stranger = await control.member("gateway"), await control.member("batch/nightly")
    operator = await admin(control)
    assert await code(stranger.channel) == "PERMISSION_DENIED"
    await apply(operator, override({"callers": ["batch/*"]}))

    async def until(mesh: Mesh, outcome: str) -> None:
        async with asyncio.timeout(IN_FORCE_S):
            while await code(mesh.channel) != outcome:  # noqa: ASYNC110 - routes tell nobody
                await asyncio.sleep(0.02)

    await until(stranger, "OK")
    await until(gateway, "PERMISSION_DENIED")


async def test_what_one_process_cannot_enforce_changes_nothing_anywhere(control: Control) -> None:
    """Its issuer is believed by nobody here."""
    catalog, _ = await control.catalog()
    gateway, operator = await control.member("gateway"), await admin(control)
    await apply(operator, override({"callers": ["gateway", "orders"]}))
    closed = override({"callers": ["orders"]}, method=f"/{CATALOG}/ListProducts")
    for broken, why in (
        (override({"token": {}}), "believes no issuer"),
        (override({"callers": ["x"]}, method=f"/{CATALOG}/GetProducts"), "its contract has no such method"),
        (override({"quota": [{"limit": 1, "per": "1s", "cost": "skuu"}]}), "quota.cost is no single field"),
        (override({"message": {"max_bytes": 2**24}}), "restart it to take more"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await apply(operator, closed, broken)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert (caught.value.details() or "").startswith("catalog#1 cannot enforce it: ")
        assert why in (caught.value.details() or "")
    assert await get_product(gateway)
    (method,) = (await operator.ListPolicies(admin_pb2.ListPoliciesRequest(filter=closed.method))).methods
    assert list(method.overridden) == []
    kept = (catalog.settings.state_dir / FILE).read_text()
    assert "ListProducts" not in kept
    assert "orders" in kept


async def test_what_was_enforced_last_is_enforced_without_a_control_plane(control: Control) -> None:
    async with control.join("catalog") as catalog:
        await serve(catalog)
        await apply(await admin(control), override({"callers": ["orders"]}))
        kept = catalog.settings.state_dir / FILE
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        settings = control.settings("catalog")
    gateway = await control.member("gateway")
    await control.stop()
    async with join(settings) as catalog:
        began = time.monotonic()
        server = catalog.server()
        servicer: Any = Catalog()  # type: ignore[abstract]  # some are left out
        catalog_pb2_grpc.add_CatalogServicer_to_server(servicer, server)
        assert catalog._overrides is not None
        await catalog._overrides.enforce(server._guard)
        assert time.monotonic() - began < 3
        assert server._guard.policies[GET].overridden == ("callers",)
        server._announce = None  # there is nobody to announce to
        await server.start()
        direct = gateway.direct_channel("catalog", server.address)
        assert await code(direct) == "CALLER_NOT_ALLOWED"


async def test_overrides_reach_who_starts_later_and_outlive_the_control_plane(control: Control) -> None:
    said = override({"callers": ["orders"]})
    await apply(await admin(control), said)
    catalog, _ = await control.catalog()
    server = catalog._servers[0]
    assert server._guard.policies[GET].overridden == ("callers",)
    await control.stop()
    await control.start()
    assert control.plane.overriding.in_force.declared() == [said]
    overriding = control.plane.overriding
    await eventually(lambda: overriding.enforced(catalog.id, "1").declared() == [said])
    assert server._guard.policies[GET].overridden == ("callers",)


async def test_a_process_whose_contract_lacks_the_method_does_not_start(control: Control) -> None:
    """Nobody could tell before: no process of it was there to be asked."""
    await apply(await admin(control), override({"callers": ["orders"]}, method=f"/{CATALOG}/GetProdukt"))
    with pytest.raises(
        PolicyError, match=r"GetProdukt: its contract has no such method; correct \[policy\] in"
    ):
        await control.catalog()


async def test_what_cannot_be_written_is_enforced_all_the_same_and_written_later(control: Control) -> None:
    catalog, _ = await control.catalog()
    in_the_way = catalog.settings.state_dir / f".{FILE}.new"
    in_the_way.mkdir()
    await apply(await admin(control), override({"callers": ["orders"]}))
    assert catalog._servers[0]._guard.policies[GET].overridden == ("callers",)
    assert not (catalog.settings.state_dir / FILE).exists()
    in_the_way.rmdir()
    await eventually((catalog.settings.state_dir / FILE).exists)


@pytest.mark.parametrize("damage", ["{", '{"version": "0"}', '{"overrides": [{"method": "x"}]}'])
async def test_damaged_last_good_overrides_stop_the_start(control: Control, damage: str) -> None:
    """Without them a method might be open that an operator has closed."""
    catalog = await control.member("catalog")
    kept = catalog.settings.state_dir / FILE
    kept.write_text(damage)
    kept.chmod(0o600)
    with pytest.raises(StoreError, match=r"overrides\.json is (damaged|not what was written): remove it"):
        catalog.server()


async def test_a_process_hears_of_the_contracts_it_may_serve_and_of_no_others(control: Control) -> None:
    catalog, _ = await control.catalog()
    theirs = override({"callers": ["orders"]}, method="/shop.payments.v1.Payments/Refund")
    answer = await apply(await admin(control), theirs, override({"callers": ["orders"]}))
    assert list(answer.enforced_by) == ["spiffe://shop.test/catalog#1"]
    assert catalog._overrides is not None
    assert list(catalog._overrides.held.by_method) == [GET]
