"""One of two replicas dies, freezes or is cut off while the shop trades: who calls it hardly notices.

Reads fail nowhere: what was in flight on the lost replica is repeated on the other, within its own deadline.
Writes that were in flight there may fail, and nothing of them is lost, doubled or left half done.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.faults.network import Cable, cables
from tests.faults.twins import SERVICES, WatchedLoad, failed, followers, trading, twins
from tests.mesh.books import Books
from tests.mesh.fleet import Fleet, eventually, fleet
from tests.postgresql import new_database

WITHIN = {"catalog": "reserve-within", "payments": "capture-within", "orders": "within-the-first-record"}
"""Where in a transaction that has changed something (doomed.py) a replica of each is frozen."""

BEFORE_S = 2.0
"""Of load before the first fault."""
NOTICED_S = 5.0
"""Within which nobody calls the lost replica any more."""
LEFT_S = 6.0
"""Within which a replica that control does not hear of is left by its callers: 2 s of silence, 3 of grace."""
HEARS_S = 15.0
"""Within which a process that control can reach again hears of changes again."""
FROZEN_S = 20.0
"""Within which a replica that is started serves, and is asked to write."""
STRUCK_S = 3.0
"""Calls that begin later and are slow have other reasons."""
BACK_S = 5.0
"""Within which a replica that can be reached again is called again."""


class Trade:
    """A load on a mesh, and the faults it is to live through."""

    def __init__(self, mesh: Fleet, load: WatchedLoad) -> None:
        self.mesh = mesh
        self.load = load
        self.told: list[str] = []
        """What was measured, a line each."""
        self._losses: list[tuple[float, float]] = []
        """From when to when each fault was met."""

    async def lose(self, replica: str, how: str, breaking: Awaitable[float | None], *, for_s: float) -> None:
        """Break it, and hold what happens in that time to the calls against what is promised.

        `breaking` says when it was broken, if that takes its time.
        """
        begun_at = time.monotonic()
        broken_at = await breaking or begun_at
        await asyncio.sleep(for_s)
        met = self.load.met(broken_at, broken_at + STRUCK_S)
        noticed = max((call.ended for call in met), default=broken_at) - broken_at
        writes = failed(met, reads=False)
        self.told.append(f"{replica} {how}: noticed after {noticed:.2f} s, {len(met)} calls met it, {writes}")
        assert not failed(met, reads=True)
        assert noticed < NOTICED_S, met
        self._losses.append((broken_at, broken_at + noticed))

    def strays(self) -> list[str]:
        """What failed and was not in flight when a replica was lost."""
        failures = [call for call in self.load.called if call.failure]
        return [
            str(call)
            for call in failures
            if not any(began <= call.ended and call.began <= ended for began, ended in self._losses)
        ]

    async def returns(self, replica: str, mending: Awaitable[object]) -> None:
        """Mend it, and wait until it is called again."""
        mended_at = time.monotonic()
        await mending
        await self.mesh.serving(replica)
        listed = time.monotonic() - mended_at
        before = len(self.served(replica))
        while len(self.served(replica)) < before + 5:
            assert time.monotonic() < mended_at + listed + BACK_S, f"nobody calls {replica} again"
            await asyncio.sleep(0.02)
        took = time.monotonic() - mended_at
        self.told.append(f"{replica}: listed again after {listed:.2f} s, called again after {took:.2f} s")

    def served(self, replica: str) -> list[str]:
        """The lines of its access log about calls of the shop that went well."""
        return [line for line in self.mesh.said(replica, '"grpc.status":"OK"') if "/shop." in line]


@asynccontextmanager
async def shop(
    folder: Path,
    mesh_toml: str,
    cut: Mapping[str, Cable] = MappingProxyType({}),
    read: Callable[[], Books] | None = None,
) -> AsyncIterator[Trade]:
    """A shop that trades while the block runs; the replicas in `cut` are at the other end of these cables.

    `read` reads its books where they are not in SQLite.
    """

    def prepare(mesh: Fleet) -> None:
        for replica in mesh.local.workloads:
            mesh.environment[replica] = {"HAUBERK_ACCESS_LOG": "1"}
        for replica, cable in cut.items():
            mesh.before[replica] = cable.command
            mesh.environment[replica] = {"HAUBERK_ACCESS_LOG": "1", "HAUBERK_LISTEN": f"{cable.address}:0"}

    async with fleet(folder, mesh_toml, prepare=prepare) as mesh:
        read = read or partial(Books.of, mesh.state)
        async with trading(await mesh.member("gateway"), read) as load:
            await asyncio.sleep(BEFORE_S)
            trade = Trade(mesh, load)
            yield trade
        print(*trade.told, sep="\n")
        assert trade.strays() == []


@pytest.mark.alone
@pytest.mark.soak
@pytest.mark.timeout(240)
async def test_a_killed_replica_costs_no_read(tmp_path: Path, soaking: bool) -> None:
    async with shop(tmp_path, twins()) as trade:
        for service in SERVICES if soaking else ("orders",):
            replica = f"{service}-1"
            await trade.lose(replica, "killed", trade.mesh.kill(replica), for_s=3)
            await trade.returns(replica, trade.mesh.start(replica))


@pytest.mark.alone
@pytest.mark.soak
@pytest.mark.timeout(240)
async def test_a_replica_frozen_within_a_write_costs_no_read_and_finds_its_way_back(
    tmp_path: Path, postgresql_server: str, soaking: bool
) -> None:
    """On PostgreSQL, which takes its locks back meanwhile: no write of the twin fails. On SQLite that takes
    `hauberk up` (test_replica_stopped.py).
    """
    urls = {service: new_database(postgresql_server) for service in SERVICES}

    def read() -> Books:
        return Books.read(catalog=urls["catalog"], orders_url=urls["orders"], payments_url=urls["payments"])

    async with shop(tmp_path, twins(urls=urls), read=read) as trade:
        for service in SERVICES if soaking else ("catalog",):
            replica, twin = f"{service}-1", f"{service}-2"
            await doom(trade.mesh, replica)
            freezing = frozen_at(trade.mesh, replica)
            await trade.lose(replica, "frozen within a write", freezing, for_s=10 if soaking else 6)
            await trade.returns(replica, thaw(trade.mesh, replica))
            assert trade.mesh.said(twin, "does not answer") == [], "it got the locks it waited for"
            for wrong in ("Traceback", '"grpc.status":"INTERNAL"'):
                assert trade.mesh.said(replica, wrong) == []


@pytest.mark.alone
@pytest.mark.soak
@pytest.mark.timeout(240)
async def test_a_replica_that_is_cut_off_costs_no_read_and_finds_its_way_back(
    tmp_path: Path, soaking: bool
) -> None:
    services = SERVICES if soaking else ("payments",)
    with cables(len(services)) as laid:
        cut = {f"{service}-1": cable for service, cable in zip(services, laid, strict=True)}
        async with shop(tmp_path, twins(host=laid[0].host), cut) as trade:
            for replica, cable in cut.items():
                await trade.lose(replica, "cut off", asyncio.to_thread(cable.cut), for_s=6)
                await trade.returns(replica, asyncio.to_thread(cable.mend))


@pytest.mark.alone
@pytest.mark.timeout(180)
async def test_a_replica_cut_off_from_control_alone_is_called_no_more_and_hears_of_changes_after(
    tmp_path: Path,
) -> None:
    """It goes on calling whom it knows; its callers are told to leave it, and lose nothing."""
    with cables(1) as (cable,):
        async with shop(tmp_path, twins(host=cable.host), {"orders-1": cable}) as trade:
            mesh = trade.mesh
            addresses = await mesh.local.answers()
            cable.cut([int(address.rpartition(":")[2]) for address in (addresses.mesh, addresses.enrolment)])
            await asyncio.sleep(LEFT_S)
            left_with = len(trade.served("orders-1"))
            await asyncio.sleep(1)
            assert len(trade.served("orders-1")) == left_with
            assert "orders#1" not in str(await followers(mesh))
            await trade.returns("orders-1", asyncio.to_thread(cable.mend))
            mended = time.monotonic()
            async with asyncio.timeout(HEARS_S):
                while not any("/orders#1" in each for each in await followers(mesh)):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            trade.told.append(f"orders-1 hears of changes {time.monotonic() - mended:.2f} s later")


async def doom(mesh: Fleet, replica: str) -> None:
    """Start it again, to freeze within the first write that it is asked for."""
    point = WITHIN[replica.rpartition("-")[0]]
    assert await mesh.stop(replica) == 0
    mesh.before[replica] = [sys.executable, str(Path(__file__).with_name("doomed.py")), "STOP", point]
    await mesh.start(replica)


async def frozen_at(mesh: Fleet, replica: str) -> float:
    """Wait until it is frozen; when that was."""
    await eventually(lambda: bool(mesh.said(replica, "doomed: ")), within=FROZEN_S)
    at = float(mesh.said(replica, "doomed: ")[0].split()[-1])
    return at + time.monotonic() - time.time()


async def thaw(mesh: Fleet, replica: str) -> None:
    mesh.thaw(replica)
