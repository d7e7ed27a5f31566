"""The control plane dies, and comes back: who trades does not notice, and nothing that it knew is lost."""

import asyncio
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

import hauberk
from hauberk.cli.local_mesh import CONTROL
from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.services.control.tables import metadata
from hauberk.services.control.xds.resource import NAME, ResourceType
from hauberk.settings import Settings
from tests.control.xds_mesh import AdsStream
from tests.faults.twins import SERVICES, followers, trading, twins
from tests.mesh.books import Books
from tests.mesh.fleet import Fleet, eventually, fleet

BACK_S = 5.0
"""Within which everything announced is announced again."""
FOLLOWED_S = 20.0
"""Within which every process hears of changes again."""
QUIET_S = 3.0
"""How long nothing has to be pushed after that: announcements outlive their streams by as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What the control plane knows: its store, what Admin lists, and who is connected to whom by it."""

    store: Mapping[str, frozenset[tuple[Any, ...]]]
    listed: tuple[Any, ...]
    connections: frozenset[str]

    @classmethod
    async def of(cls, mesh: Fleet) -> Self:
        """Without when the SVIDs of the replicas end: they are renewed."""
        admin = mesh.admin
        replicas = (await admin.ListReplicas(admin_pb2.ListReplicasRequest())).replicas
        for replica in replicas:
            replica.ClearField("svid_expires_at")
        policies = (await admin.ListPolicies(admin_pb2.ListPoliciesRequest())).methods
        roots = (await admin.ListRoots(admin_pb2.ListRootsRequest())).roots
        ports = {int(replica.address.rpartition(":")[2]) for replica in replicas}
        return cls(
            store=stored(mesh.state.folder / "control" / "control.db"),
            listed=(list(replicas), list(policies), list(roots)),
            connections=connections_to(ports),
        )


@pytest.mark.soak
@pytest.mark.timeout(180)
async def test_nobody_notices_that_control_is_away_and_it_comes_back_with_all_it_knew(
    tmp_path: Path, soaking: bool
) -> None:
    """In the long version every connection ages and every SVID has to be renewed, too."""
    away_s, lifetime = (20.0, "2m") if soaking else (8.0, "1h")
    async with fleet(tmp_path, twins(svid_lifetime=lifetime)) as mesh:
        caller = await mesh.member("gateway")
        await make_facts(mesh)
        async with trading(caller, partial(Books.of, mesh.state)) as load:
            await asyncio.sleep(40 if soaking else 2)  # SVIDs of 2 min are renewed after 54 to 66 s
            told = await versions(AdsStream(caller.control))
            known, followed_by = await Knowledge.of(mesh), await followers(mesh)
            await mesh.kill(CONTROL)
            await asyncio.sleep(away_s)
            await returns(mesh, caller, told, followed_by)
            knows = await Knowledge.of(mesh)
            lost = {name: rows - knows.store[name] for name, rows in known.store.items()}
            assert not any(lost.values()), lost
            assert knows.listed == known.listed
            if soaking:
                assert any(mesh.said(name, "renewal failed") for name in mesh.local.workloads)
                await eventually(
                    lambda: all(mesh.said(name, "svid renewed") for name in mesh.local.workloads), within=60
                )
            else:  # before any ends by age
                assert knows.connections == known.connections
    assert [str(call) for call in load.called if call.failure] == []


@pytest.mark.soak
async def test_a_control_plane_that_was_frozen_has_nothing_to_tell(tmp_path: Path, soaking: bool) -> None:
    """It lost every stream at once; all are back before it takes anybody off its list."""
    async with fleet(tmp_path, twins()) as mesh:
        caller = await mesh.member("gateway")
        async with trading(caller, partial(Books.of, mesh.state)) as load:
            await asyncio.sleep(1)
            told, known = await versions(AdsStream(caller.control)), await Knowledge.of(mesh)
            mesh.freeze(CONTROL)
            await asyncio.sleep(15 if soaking else 4)
            mesh.thaw(CONTROL)
            await caller.control.channel_ready()
            stream = AdsStream(caller.control)
            assert await versions(stream) == told
            assert await pushed(stream) is None
            assert (await Knowledge.of(mesh)).listed == known.listed
    assert [str(call) for call in load.called if call.failure] == []


async def test_who_joins_while_control_is_away_waits_for_it(tmp_path: Path) -> None:
    """For 15 s; then it ends, and says that nobody answers there (tests/face/test_join.py)."""
    async with fleet(tmp_path, twins(), start=[]) as mesh:
        settings = await mesh.invited("batch/nightly")
        await mesh.kill(CONTROL)
        async with asyncio.TaskGroup() as group:
            joining = group.create_task(joined_as(settings))
            await asyncio.sleep(2)
            assert not joining.done()
            await mesh.start(CONTROL)
        assert joining.result() == "spiffe://shop.test/batch/nightly"


async def joined_as(settings: Settings) -> str:
    async with hauberk.join(settings) as mesh:
        return str(mesh.id)


async def make_facts(mesh: Fleet) -> None:
    """Something in each table: an invitation, a binding and a revocation besides what a start leaves."""
    await mesh.admin.Invite(admin_pb2.InviteRequest(name="batch/nightly", serves=["shop.reports.v1.Reports"]))
    await mesh.admin.Invite(admin_pb2.InviteRequest(name="thief"))
    await mesh.admin.Revoke(admin_pb2.RevokeRequest(name="thief", reason="stole"))


async def returns(mesh: Fleet, caller: Any, told: Mapping[str, str], followed_by: set[str]) -> None:
    """Start control again; everybody comes back to it in time, and nobody is told anything."""
    said = {name: len(mesh.said(name, "announced at")) for name in mesh.local.workloads}
    await mesh.start(CONTROL)
    await mesh.local.answers()
    up = time.monotonic()
    await caller.control.channel_ready()
    stream = AdsStream(caller.control)
    assert await versions(stream) == told
    await eventually(
        lambda: all(len(mesh.said(name, "announced at")) > before for name, before in said.items()),
        within=2 * BACK_S,
    )
    announced_s = time.monotonic() - up
    async with asyncio.timeout(FOLLOWED_S):
        while not followed_by <= await followers(mesh):  # noqa: ASYNC110 - control tells nobody
            await asyncio.sleep(0.05)
    followed_s = time.monotonic() - up
    print(
        f"all announced {announced_s:.2f} s after control listened, all xds clients back {followed_s:.2f} s"
    )
    assert announced_s < BACK_S
    assert await pushed(stream) is None


async def versions(stream: AdsStream) -> Mapping[str, str]:
    """The version of everything that the gateway may have, by type."""
    told = {}
    for kind in ResourceType:
        names = (NAME,) if kind in (ResourceType.LISTENER, ResourceType.ROUTES) else SERVICES
        told[kind.short] = (await stream.fetch(kind, *names)).version_info
    return told


async def pushed(stream: AdsStream) -> Any:
    """What comes unasked within QUIET_S; None if nothing does."""
    try:
        async with asyncio.timeout(QUIET_S):
            return await stream.call.read()
    except TimeoutError:
        return None


def stored(file: Path) -> Mapping[str, frozenset[tuple[Any, ...]]]:
    """The rows of each table."""
    with closing(sqlite3.connect(file)) as connection:
        return {
            table.name: frozenset(
                connection.execute(
                    f"SELECT {', '.join(c.name for c in table.columns if c.name != 'svid_expires_at')} "
                    f"FROM {table.name}"
                )
            )
            for table in metadata.sorted_tables
        }


def connections_to(ports: set[int]) -> frozenset[str]:
    """The connections of this machine to these ports of its own that are open."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, state = line.split()[1:4]
        if state == "01" and int(local.rpartition(":")[2], 16) in ports:
            found.add(f"{local} {remote}")
    return frozenset(found)
