"""The disk fills up under the shop's databases, the control plane's store and everybody's credentials."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from hauberk import hints
from hauberk.certs.store import CredentialStore
from hauberk.cli import checkup
from hauberk.cli.state import State
from hauberk.protos.hauberk.control.v1 import admin_pb2
from tests.faults.customers import UNSETTLED, Customers, customers, reasons
from tests.faults.joining import join
from tests.faults.small_disk import SmallDisk, small_disk
from tests.mesh.books import Books
from tests.mesh.fleet import Fleet, eventually, fleet
from tests.mesh.running import shop

REPAIRED_S = 10.0
"""How long after the repair all must be well."""
AUDITED = {"AUDIT_UNWRITABLE", "STORE_UNAVAILABLE"}
"""The last page of the audit log may have room for a line or two when nothing else has."""
ROOMY = "64m"
"""Three write-ahead logs of SQLite grow to 4 MiB each by themselves."""


@pytest.mark.soak
@pytest.mark.timeout(240)
async def test_full_disks_are_typed_half_write_nothing_and_heal(tmp_path: Path, soaking: bool) -> None:
    """First under orders (and its callees); then under control and every process's credentials."""
    full_s, lifetime_s = (8.0, 40) if soaking else (4.0, 24)
    state = State.beside(tmp_path / "mesh.toml")
    state.folder.mkdir(mode=0o700)
    with (
        small_disk(state.folder / "databases", size=ROOMY) as databases,
        small_disk(state.folder / "control", size=ROOMY) as control,
        small_disk(state.folder / "workloads", size=ROOMY) as credentials,
    ):
        async with fleet(tmp_path, shop(svid_lifetime=f"{lifetime_s}s")) as mesh:
            gateway = await mesh.member("gateway")
            pids = {name: mesh.pid(name) for name in mesh.names}
            async with customers(gateway.channel) as load:
                await under_orders(mesh, load, databases, full_s)
                await until_due(mesh, lifetime_s)
                await under_control(mesh, load, [control, credentials], max(full_s, 0.2 * lifetime_s))
            await load.finish()
            assert {name: mesh.pid(name) for name in mesh.names} == pids, "nobody was started again"
        books = Books.of(state)
    assert books.wrongs(stocked=load.stocked, acknowledged=load.acknowledged) == []


async def under_orders(mesh: Fleet, load: Customers, disk: SmallDisk, full_s: float) -> None:
    said_before, full = len(mesh.output), time.monotonic()
    disk.fill()
    await asyncio.sleep(full_s)
    found = [finding.text for finding in checkup.room(mesh.state) if not finding.ok]
    assert len(found) == 1, "hauberk doctor names the disk, and no other"
    assert f"the disk of {disk.folder} is full" in found[0]
    freed = time.monotonic()
    disk.free()
    well = await load.well(within=REPAIRED_S)
    assert reasons(load.refused(full)) <= {("UNAVAILABLE", "STORE_UNAVAILABLE"), *UNSETTLED}
    assert not load.refused(full, "GetProduct"), "reading goes on"
    refused = [each for each in load.refused(full) if each.reason == "STORE_UNAVAILABLE"]
    assert refused
    assert all(each.took < 1 for each in refused)
    said = mesh.output[said_before:]
    assert any("database or disk is full" in line for line in said if line.startswith("orders-1 | "))
    assert len(said) < 20 + 3 * full_s, "no flood"
    first = min(each.at + each.took for each in refused) - full
    print(f"orders: refused after {first:.2f} s, {len(refused)} calls; well {well - freed:.2f} s after")


async def under_control(mesh: Fleet, load: Customers, disks: list[SmallDisk], full_s: float) -> None:
    """Nobody else notices: certificates that are due are renewed as soon as there is room, in time."""
    invitation = await mesh.admin.Invite(admin_pb2.InviteRequest(name="late"), timeout=5)
    said_before, full = len(mesh.output), time.monotonic()
    before = held(mesh)
    for disk in disks:
        disk.fill()
    await asyncio.sleep(full_s / 2)
    for attempt, reasons_of_it in (
        (mesh.admin.Invite(admin_pb2.InviteRequest(name="later"), timeout=5), AUDITED),
        (join(mesh, invitation), {"STORE_UNAVAILABLE"}),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await attempt
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert hints.reason_of(caught.value) in reasons_of_it
    assert {row.name for row in await mesh.local.rows() if row.serves} == set(mesh.names)
    await asyncio.sleep(full + full_s - time.monotonic())
    assert held(mesh) == before, "on disk everything is as it was, and whole"
    freed = time.monotonic()
    for disk in disks:
        disk.free()
    assert (await join(mesh, invitation)).credentials.svid.spiffe_id.name == "late"
    joined = time.monotonic()
    await eventually(lambda: not held(mesh) & before, within=REPAIRED_S + full_s)
    renewed = time.monotonic()
    said = mesh.output[said_before:]
    assert any("database or disk is full" in line for line in said if line.startswith("control | "))
    assert any("renewal failed" in line and "store does not answer" in line for line in said)
    assert len(said) < 40 + 5 * full_s, "no flood"
    assert not load.refused(full), "nobody else suffers"
    print(f"control: joined {joined - freed:.2f} s, all renewed {renewed - freed:.2f} s after the repair")


def held(mesh: Fleet) -> set[bytes]:
    """The chains that the shop's processes have on disk; raises StoreError if one is not whole."""
    stores = [CredentialStore(mesh.state.workload(name, 1)) for name in ("catalog", "payments", "orders")]
    loaded = [store.load() for store in stores]
    return {credentials.svid.chain_pem for credentials in loaded if credentials is not None}


async def until_due(mesh: Fleet, lifetime_s: int) -> None:
    """Wait until the first of the shop's certificates is about to be renewed."""
    stores = [CredentialStore(mesh.state.workload(name, 1)) for name in ("catalog", "payments", "orders")]
    ages = [datetime.now(UTC) - found.svid.issued_at for store in stores if (found := store.load())]
    oldest = max(ages).total_seconds()
    if oldest < 0.42 * lifetime_s:
        await asyncio.sleep(0.42 * lifetime_s - oldest)
