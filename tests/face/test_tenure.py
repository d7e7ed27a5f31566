"""A member's stay: renewal, trust as it changes, followers, and how it ends."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from hauberk.certs.rotation import RenewalFailed
from hauberk.certs.store import CredentialStore
from hauberk.cli.dial import dialled
from hauberk.entry import join
from hauberk.errors import MembershipEnded
from hauberk.hints import reason_of
from hauberk.mesh import Mesh
from hauberk.protos.hauberk.control.v1 import admin_pb2, enrolment_pb2, enrolment_pb2_grpc
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.server import MeshServer
from hauberk.tenure import _tell
from tests.face.control import Control, admin, eventually, get_product

SHORT = timedelta(seconds=10)


@pytest.fixture
async def hasty(tmp_path: Path) -> Control:
    """A mesh whose SVIDs live as short as may be."""
    return Control(tmp_path, lifetime=SHORT)


async def test_three_svids_of_a_working_process(hasty: Control) -> None:
    """Calls go on through every rotation, over the mesh and directly; the folder keeps three generations."""
    async with hasty as control:
        _, servicer = await control.catalog()
        gateway = await control.member("gateway")
        serials = {gateway.credentials.value.svid.leaf.serial_number}
        calls = 0
        while len(serials) < 4:
            await get_product(gateway)
            calls += 1
            serials.add(gateway.credentials.value.svid.leaf.serial_number)
            await asyncio.sleep(0.05)
        assert servicer.ran == calls
        folders = sorted(path.name for path in gateway.settings.state_dir.glob("g0*"))
        assert len(folders) == 3
        assert CredentialStore(gateway.settings.state_dir).load() == gateway.credentials.value
        replicas = control.plane.roster.replicas()
        assert [replica.address for replica in replicas] == [replicas[0].address]


async def test_a_follower_reads_what_the_holder_of_the_lock_writes(hasty: Control) -> None:
    async with hasty as control:
        leader = await control.member("gateway")
        follower = await control.follower("gateway")
        assert follower.credentials.value == leader.credentials.value
        first = leader.credentials.version
        await eventually(lambda: leader.credentials.version > first)
        await eventually(lambda: follower.credentials.value == leader.credentials.value)


async def test_a_follower_does_not_go_back_to_what_the_holder_has_on_disk(control: Control) -> None:
    leader = await control.member("gateway")
    follower = await control.follower("gateway")
    operator = await admin(control)
    (leader.settings.state_dir / ".current.new").mkdir()  # nothing can be written
    roll = admin_pb2.RollRootRequest(step=admin_pb2.RollRootRequest.STEP_PREPARE)
    await operator.RollRoot(roll, timeout=5)
    await eventually(lambda: len(follower.trust.value.bundle.anchors["shop.test"]) == 2, within=3)
    heard = follower.credentials.version
    await follower._tenure._read()
    assert len(follower.trust.value.bundle.anchors["shop.test"]) == 2
    assert follower.credentials.version == heard


async def test_a_follower_takes_over_when_the_holder_leaves(hasty: Control) -> None:
    async with hasty as control, AsyncExitStack() as leading:
        leader = await leading.enter_async_context(control.join("gateway"))
        async with join(control.settings("gateway", replica="2")) as follower:
            await leading.aclose()
            held = leader.credentials.value
            await eventually(lambda: follower.credentials.value.svid.expires_at > held.svid.expires_at, 15)
            assert CredentialStore(follower.settings.state_dir).lock() is None


async def test_a_follower_without_a_leader_s_svid_waits_for_it(control: Control) -> None:
    settings = control.settings("gateway")
    lock = CredentialStore(settings.state_dir).lock()
    assert lock is not None

    async def follow() -> str:
        async with join(settings) as mesh:
            return mesh.id.name

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(0.3)
    assert not following.done()
    lock.release()
    async with control.join("gateway"):
        assert await following == "gateway"


async def test_a_new_root_is_trusted_at_once_and_on_disk(control: Control) -> None:
    gateway = await control.member("gateway")
    await (await admin(control)).RollRoot(
        admin_pb2.RollRootRequest(step=admin_pb2.RollRootRequest.STEP_PREPARE), timeout=5
    )
    await eventually(lambda: len(gateway.trust.value.bundle.anchors["shop.test"]) == 2)
    assert gateway.credentials.value.bundle == gateway.trust.value.bundle
    store = CredentialStore(gateway.settings.state_dir)
    await eventually(lambda: store.load() == gateway.credentials.value, within=2)


async def test_trust_that_cannot_be_written_holds_all_the_same_and_is_written_later(control: Control) -> None:
    gateway = await control.member("gateway")
    operator = await admin(control)
    await control.member("catalog", ends=True)
    in_the_way = gateway.settings.state_dir / ".current.new"
    in_the_way.mkdir()
    roll = admin_pb2.RollRootRequest(step=admin_pb2.RollRootRequest.STEP_PREPARE)
    await operator.RollRoot(roll, timeout=5)
    await eventually(lambda: len(gateway.trust.value.bundle.anchors["shop.test"]) == 2, within=3)
    await operator.Revoke(admin_pb2.RevokeRequest(name="catalog", reason="test"), timeout=5)
    await eventually(lambda: "spiffe://shop.test/catalog" in gateway.trust.value.revoked, within=3)
    in_the_way.rmdir()
    store = CredentialStore(gateway.settings.state_dir)
    await eventually(lambda: store.load() == gateway.credentials.value)
    assert gateway.credentials.value.bundle == gateway.trust.value.bundle


async def test_a_renewed_svid_that_cannot_be_written_is_used_and_written_later(hasty: Control) -> None:
    """A disk that is full for longer than half an SVID lives would otherwise end a process that is well."""
    async with hasty as control:
        gateway = await control.member("gateway")
        store, first = CredentialStore(gateway.settings.state_dir), gateway.credentials.value
        in_the_way = gateway.settings.state_dir / ".current.new"
        in_the_way.mkdir()
        await eventually(lambda: gateway.credentials.value.svid.expires_at > first.svid.expires_at, 8)
        assert store.load() == first, "what is on disk stays whole"
        in_the_way.rmdir()
        await eventually(lambda: store.load() == gateway.credentials.value, within=4)


async def test_a_caller_that_is_revoked_is_refused_on_its_living_connection(control: Control) -> None:
    catalog, _ = await control.catalog()
    operator = await admin(control)
    gateway = await control.member("gateway", ends=True)
    channel = gateway.direct_channel("catalog", catalog_address(control))
    check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert await check(b"", timeout=5) == b"\x08\x01"
    await operator.Revoke(admin_pb2.RevokeRequest(name="gateway", reason="test"), timeout=5)
    await eventually(lambda: "spiffe://shop.test/gateway" in catalog.trust.value.revoked)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert reason_of(caught.value) == "REVOKED"


async def test_who_is_revoked_stops_serving_and_says_so(
    control: Control, caplog: pytest.LogCaptureFixture
) -> None:
    operator = await admin(control)

    async def serve() -> None:
        async with control.join("gateway") as mesh, asyncio.timeout(10):
            await operator.Revoke(admin_pb2.RevokeRequest(name="gateway"), timeout=5)
            await mesh.server().serve()

    with pytest.raises(MembershipEnded, match=r"spiffe://shop.test/gateway was revoked"):
        await serve()
    assert "gateway was revoked" in caplog.text


@pytest.mark.alone
async def test_who_is_revoked_ends_the_streams_it_serves_at_once(control: Control) -> None:
    catalog = await control.member("catalog", ends=True)
    server = catalog.server(drain_seconds=10)
    await server.start()
    gateway, operator = await control.member("gateway"), await admin(control)
    async with dialled(server.address, catalog.id, gateway.credentials.value) as channel:
        watching: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
        watch = watching(b"")
        await watch.read()
        began = time.monotonic()
        await operator.Revoke(admin_pb2.RevokeRequest(name="catalog", reason="test"), timeout=5)
        assert await asyncio.wait_for(watch.code(), 5) is grpc.StatusCode.UNAVAILABLE
    assert time.monotonic() - began < 1
    assert catalog.stopping.is_set()


class Silent(catalog_pb2_grpc.CatalogServicer):
    """A server that ends nothing by itself."""

    async def WatchProducts(  # noqa: N802 - the contract's name
        self, request: Any, context: Any
    ) -> AsyncIterator[catalog_pb2.Product]:
        yield catalog_pb2.Product(sku="A-1")
        await asyncio.sleep(60)


@pytest.mark.alone
async def test_streams_to_a_revoked_server_end_at_their_callers_whatever_it_does(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the mesh and directly; to others they go on, and nothing new is sent to it."""
    monkeypatch.setattr(MeshServer, "refuse_all", lambda *_: None)
    hostile = await control.member("catalog", ends=True)
    server = hostile.server()
    catalog_pb2_grpc.add_CatalogServicer_to_server(Silent(), server)  # type: ignore[abstract]
    await server.start()
    gateway, operator = await control.member("gateway"), await admin(control)
    await eventually_served(gateway)
    direct = gateway.direct_channel("catalog", server.address)
    open_: list[Any] = [
        catalog_pb2_grpc.CatalogStub(channel).WatchProducts(catalog_pb2.WatchProductsRequest())
        for channel in (gateway.channel, direct)
    ]
    other: Any = enrolment_pb2_grpc.IdentityStub(gateway.control).WatchTrust(
        enrolment_pb2.WatchTrustRequest()
    )
    for stream in (*open_, other):
        await stream.read()
    began = time.monotonic()
    await operator.Revoke(admin_pb2.RevokeRequest(name="catalog", reason="test"), timeout=5)
    for stream in open_:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(stream.read(), 5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, caught.value
    assert time.monotonic() - began < 1
    assert list((await other.read()).withdrawn_contracts) == ["shop.catalog.v1.Catalog"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await catalog_pb2_grpc.CatalogStub(direct).GetProduct(catalog_pb2.GetProductRequest(sku="A-1"))
    assert reason_of(caught.value) == "SERVER_REVOKED"
    assert not gateway._streams._open


async def eventually_served(mesh: Mesh) -> None:
    """Wait for the routes of the catalog."""
    catalog: Any = catalog_pb2_grpc.CatalogStub(mesh.channel)
    async with asyncio.timeout(10):
        while True:
            watch = catalog.WatchProducts(catalog_pb2.WatchProductsRequest())
            try:
                await watch.read()
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
            else:
                watch.cancel()
                return


async def test_revoked_names_are_known_after_a_restart_without_control_plane(control: Control) -> None:
    async with control.join("catalog") as mesh:
        operator = await admin(control)
        control.invite("gateway")
        await operator.Revoke(admin_pb2.RevokeRequest(name="gateway"), timeout=5)
        await eventually(lambda: mesh.trust.value.revoked)
        await eventually(lambda: "gateway" in (mesh.settings.state_dir / "membership.json").read_text())
    settings = control.settings("catalog")
    await control.stop()
    async with join(settings) as mesh:
        assert mesh.trust.value.revoked == {"spiffe://shop.test/gateway"}


class Clock:
    """Time that can be moved."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


async def test_who_has_expired_and_cannot_renew_stops_serving_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    control = Control(tmp_path, lifetime=SHORT)

    async def serve() -> None:
        settings = control.settings("gateway", join_token_file=control.invite("gateway"))
        async with join(settings) as mesh, asyncio.timeout(20):
            await control.stop()
            await mesh.server().serve()

    async with control:
        with pytest.raises(
            MembershipEnded, match=r"expired .* no join token is left: .*hauberk invite gateway"
        ):
            await serve()
    assert "all calls are refused from now on" in caplog.text


def test_a_renewal_that_fails_without_a_word_is_named(caplog: pytest.LogCaptureFixture) -> None:
    _tell(RenewalFailed(error=TimeoutError(), retry_in=timedelta(seconds=1), left=timedelta(seconds=9)))
    assert caplog.messages == ["renewal failed, 9 s are left, next try in 1.0 s: TimeoutError"]


@pytest.mark.parametrize("hours", [5, -5])
async def test_who_has_a_clock_that_is_wrong_waits_and_says_so(
    control: Control, caplog: pytest.LogCaptureFixture, hours: int
) -> None:
    """To everybody else our SVID is good: no reason to end, and none to serve meanwhile."""
    clock = Clock()
    await control.member("catalog")
    settings = control.settings("gateway", join_token_file=control.invite("gateway"))
    async with join(settings, clock=clock) as mesh:
        first = mesh.credentials.value
        clock.ahead = timedelta(hours=hours)
        await eventually(lambda: bool(mesh._tenure.unfit.value), within=3)
        way = "forward" if hours > 0 else "back"
        assert mesh._tenure.unfit.value.startswith(f"this machine's clock was set {way} by 5 h: svid of")
        await eventually(lambda: "the control plane are about" in caplog.text, within=5)
        assert not mesh.stopping.is_set()
        clock.ahead = timedelta(0)
        await eventually(lambda: not mesh._tenure.unfit.value, within=3)
        assert mesh.credentials.value == first
        assert len([line for line in caplog.messages if "clock was set" in line]) < 8


async def test_who_has_expired_enrols_again_with_a_token_at_hand(
    hasty: Control, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the mesh port was away for longer than an SVID lives."""
    caplog.set_level(logging.INFO)
    async with hasty as control:
        gateway = await control.member("gateway")
        first = gateway.credentials.value.svid
        await control.plane.mesh.stop(0)
        control.invite("gateway")
        await eventually(lambda: gateway.credentials.value.svid.expires_at > first.expires_at, 15)
        assert not gateway.stopping.is_set()
    told = [record.message for record in caplog.records if record.name == "hauberk.tenure"]
    refused = next(line for line in told if "all calls are refused from now on" in line)
    again = next(line for line in told if "identity is good again" in line)
    assert told.index(refused) < told.index(again)


def catalog_address(control: Control) -> str:
    (replica,) = [each for each in control.plane.roster.replicas() if each.spiffe_id.name == "catalog"]
    return replica.address
