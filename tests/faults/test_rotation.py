"""Identity under load: certificates of 20 s and a root that rolls, while every process trades."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

import hauberk
from hauberk.certs.authority import Authority
from hauberk.certs.clock import utc_now
from hauberk.certs.credentials import Credentials
from hauberk.certs.identity import SpiffeId
from hauberk.certs.rotation import Schedule
from hauberk.certs.svid import Svid
from hauberk.cli.dial import dialled, error_infos
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.services.shopper.load import Load
from tests.faults.connections import Connections
from tests.mesh.fleet import Fleet, eventually, fleet
from tests.mesh.running import COMMAND, Serials, clean_environment, running, shop, up_once

LIFETIME_S = 20
SHORTEST_S = 10
RATE = 30.0


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_all_rotate_and_the_root_rolls_under_load(tmp_path: Path, soaking: bool) -> None:
    """Also: the roll is interrupted and started again, and what the old root signed is refused at its end."""
    seconds, rotations = (120.0, 5) if soaking else (36.0, 2)
    async with fleet(tmp_path, shop(svid_lifetime=f"{LIFETIME_S}s", replicas=2)) as mesh:
        gateway = await mesh.member("gateway")
        old = _signed_by(mesh, "gateway")
        connections = Connections(lambda: [mesh.pid(name) for name in mesh.names])
        with Serials(tmp_path) as serials:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(connections.watch())
                guests = Guests(mesh, old, gateway)
                coming = group.create_task(guests.come())
                rolling = group.create_task(_rolled(tmp_path, interrupt_after="activate"))
                load = Load(gateway.channel, asyncio.Event(), rate=RATE)
                summary = await load.run(seconds)
                roll = await rolling
                coming.cancel()
                watching.cancel()
        refused = await guests.left()
    fewest = min(len(seen) - 1 for seen in serials.values())
    cut = [visit.ended - roll[-1].at for visit in refused if visit.stream == UNTRUSTED]
    print(
        f"{summary}; oldest connection {connections.oldest_s:.1f} s of {connections.count}; fewest rotations "
        f"{fewest}; {len(cut)} old streams ended {max(cut, default=0.0):+.2f} s after the last step",
        file=sys.stderr,
    )
    assert not summary.failed, summary.json()
    assert summary.calls.total() > seconds * RATE / 2
    assert summary.streamed > seconds
    assert {re.sub(r".*/", "", name) for name in serials} >= {*mesh.names, "local", "gateway-test"}
    assert fewest >= rotations, serials
    assert connections.count > len(mesh.names)
    schedule = Schedule.of(LIFETIME_S)
    assert connections.oldest_s < 1.1 * schedule.max_connection_age + schedule.grace + 1 < LIFETIME_S
    assert [each.step for each in roll] == ["prepare", "activate", "retire"]
    _check_refused(refused, retired=roll[-1].at)


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the roll, and when the command had said that it was taken, monotonic."""

    step: str
    at: float


async def _rolled(folder: Path, *, interrupt_after: str | None = None) -> list[Step]:
    """`hauberk ca roll`, interrupted once after that step and started again: the steps it took."""
    steps: list[Step] = []
    for interrupts in (True, False) if interrupt_after else (False,):
        command = await asyncio.create_subprocess_exec(
            *COMMAND, "ca", "roll", "--json", cwd=folder, env=clean_environment(), stdout=subprocess.PIPE
        )
        assert command.stdout is not None
        async for line in command.stdout:
            if (step := json.loads(line).get("step")) is not None:
                steps.append(Step(step, time.monotonic()))
                if interrupts and step == interrupt_after:
                    command.send_signal(signal.SIGINT)
                    break
        code = await command.wait()
        assert interrupts or code == 0
    return steps


def _signed_by(mesh: Fleet, name: str) -> Svid:
    """An SVID of the root that signs now; it lives for an hour, and the control plane knows nothing of it."""
    opened = Authority.load(mesh.state.ca)
    spiffe_id = SpiffeId.of(opened.trust_domain, name)
    return opened.issue(spiffe_id, lifetime=timedelta(hours=1), now=utc_now())


@dataclass(frozen=True, slots=True)
class Visit:
    """How one connection made with the old root's SVID went."""

    opened: float
    """When its stream had brought something, monotonic; 0 if it never did."""
    ended: float
    stream: tuple[grpc.StatusCode, str]
    call: tuple[grpc.StatusCode, str]
    """How the next call over the same connection ended."""


class Guests:
    """One comes each half second, on a connection of its own, opens a stream and stays: some are new."""

    def __init__(self, mesh: Fleet, svid: Svid, told: hauberk.Mesh) -> None:
        """Whom they trust is what `told` has heard: a thief is told of the new root as all are."""
        self._mesh = mesh
        self._svid = svid
        self._told = told
        self._visits: list[asyncio.Task[Visit]] = []

    async def come(self) -> None:
        rows = [row for row in await self._mesh.local.rows() if row.name.startswith("catalog")]
        number = 0
        while True:
            visit = asyncio.create_task(self._visit(rows[number % len(rows)].address))
            self._visits.append(visit)
            number += 1
            await asyncio.sleep(0.5)

    async def left(self) -> list[Visit]:
        async with asyncio.timeout(15):
            return list(await asyncio.gather(*self._visits))

    async def _visit(self, address: str) -> Visit:
        catalog_id = SpiffeId.of(self._told.id.trust_domain, "catalog")
        shown = Credentials(self._svid, self._told.trust.value.bundle)
        async with dialled(address, catalog_id, shown) as channel:
            catalog = catalog_pb2_grpc.CatalogStub(channel)
            opened = 0.0
            try:
                async for _ in catalog.WatchProducts(catalog_pb2.WatchProductsRequest()):
                    opened = opened or time.monotonic()
            except grpc.aio.AioRpcError as error:
                stream, ended = _told(error), time.monotonic()
            try:
                await catalog.GetProduct(catalog_pb2.GetProductRequest(sku="NONE"), timeout=5)
            except grpc.aio.AioRpcError as error:
                return Visit(opened, ended, stream, _told(error))
            raise AssertionError("there is such a product")


def _told(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
    return error.code(), "".join(info.reason for info in error_infos(error))


UNTRUSTED = (grpc.StatusCode.UNAUTHENTICATED, "UNTRUSTED_ISSUER")


def _check_refused(visits: list[Visit], *, retired: float) -> None:
    """Until the old root was retired its SVID was served; since then no stream, no call and no handshake."""
    before = [visit for visit in visits if visit.opened and visit.ended < retired - 2]
    assert before
    assert {visit.stream[0] for visit in before} == {grpc.StatusCode.UNAVAILABLE}, "ended by age alone"
    cut = [visit for visit in visits if visit.stream == UNTRUSTED]
    assert len(cut) >= 2, visits
    assert max(visit.ended for visit in cut) < retired + 1
    assert UNTRUSTED in {visit.call for visit in cut}, "the youngest's connection lives on"
    assert not [visit for visit in visits if visit.opened > retired + 1]
    late = [visit for visit in visits if not visit.opened]
    assert late
    assert {visit.stream for visit in late} == {(grpc.StatusCode.UNAVAILABLE, "")}, "refused in the handshake"


@pytest.mark.timeout(120)
async def test_a_roll_goes_on_when_the_control_plane_is_killed_in_it(tmp_path: Path) -> None:
    """Nothing of it is kept in memory: the command asks anew, and processes tell anew what they heard."""
    async with fleet(tmp_path, shop(svid_lifetime=f"{SHORTEST_S}s"), start=[]) as mesh:
        old = Authority.load(mesh.state.ca).roots(utc_now())
        rolling = asyncio.create_task(_rolled(tmp_path))
        await eventually(lambda: len(mesh.state.roots.read_bytes().split(b"-----BEGIN")) == 3, within=10)
        await mesh.kill("control")
        await mesh.start("control")
        async with asyncio.timeout(60):
            steps = await rolling
        assert [each.step for each in steps][-2:] == ["activate", "retire"]
        (new,) = Authority.load(mesh.state.ca).roots(utc_now())
        assert new.fingerprint not in {root.fingerprint for root in old}


@pytest.mark.timeout(120)
def test_a_mesh_comes_back_by_itself_after_every_svid_has_expired(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text(shop(svid_lifetime=f"{SHORTEST_S}s"))
    with running(tmp_path):
        pass
    time.sleep(SHORTEST_S + 1)
    began = time.monotonic()
    again = up_once(tmp_path)
    assert again.returncode == 0, again.stdout[-6000:] + again.stderr[-6000:]
    # The whole run, 20 orders included, takes less than the first order may.
    assert time.monotonic() - began < 30
