"""The clock of one process jumps by five hours under load: of a client, a server, the control plane."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hauberk.certs.authority import Authority
from hauberk.certs.identity import SpiffeId
from hauberk.cli.dial import dialled, error_infos
from hauberk.cli.state import State
from hauberk.enrolment import is_impostor
from hauberk.protos.hauberk.control.v1 import admin_pb2
from tests.faults.customers import Answer, Customers, customers, reasons
from tests.faults.joining import join
from tests.faults.wall_clock import WallClock
from tests.mesh.books import Books
from tests.mesh.fleet import Fleet, eventually, fleet
from tests.mesh.running import REPOSITORY, shop

T = TypeVar("T")

REPAIRED_S = 10.0
"""How long after the repair all must be well."""
CALLER = f"""
[workloads.gateway]
command = ["python", "-m", "tests.faults.caller"]
env = {{ PYTHONPATH = "{REPOSITORY}" }}
"""


@pytest.mark.soak
@pytest.mark.timeout(240)
async def test_clocks_that_jump_are_named_fail_closed_and_are_forgotten(
    tmp_path: Path, soaking: bool
) -> None:
    wrong_s, lifetime_s = 5.0, 40 if soaking else 30
    faults = [("gateway-1", "+5h"), ("catalog-1", "-5h"), ("control", "+5h")]
    if soaking:
        faults += [("gateway-1", "-5h"), ("catalog-1", "+5h"), ("control", "-5h")]
    clocks = {name: WallClock(tmp_path / f"{name}.clock") for name in BREAK}
    old_authority(tmp_path)

    def fake(mesh: Fleet) -> None:
        for name, clock in clocks.items():
            mesh.environment[name] = clock.environment

    toml = shop(svid_lifetime=f"{lifetime_s}s").replace("[once]", CALLER + "\n[once]")
    async with fleet(tmp_path, toml, start=["catalog-1", "payments-1", "orders-1"], prepare=fake) as mesh:
        await start_caller(mesh)
        gateway = await mesh.member("gateway")
        pids = {name: mesh.pid(name) for name in mesh.names}
        async with customers(gateway.channel, rate=10) as load:
            for name, offset in faults:
                said_before, began = len(mesh.output), time.monotonic()
                well = await BREAK[name](mesh, load, clocks[name], offset, wrong_s)
                print(f"{name} {offset}: {well}")
                said = [line for line in mesh.output[said_before:] if '{"at":' not in line]
                way = "forward" if offset[0] == "+" else "back"
                assert [
                    line for line in said if line.startswith(f"{name} | ") and f"set {way} by 5 h" in line
                ]
                # Of each order it may be said that it failed, that it is to be undone, and that it is.
                assert len(said) < 60 + 3 * len(load.since(began, "PlaceOrder")), "no flood"
                await asyncio.sleep(1)
        await load.finish()
        assert {name: mesh.pid(name) for name in mesh.names} == pids, "nobody was started again"
    books = Books.of(State.beside(tmp_path / "mesh.toml"))
    assert books.wrongs(stocked=load.stocked, acknowledged=load.acknowledged) == []


async def a_client(mesh: Fleet, load: Customers, clock: WallClock, offset: str, wrong_s: float) -> str:
    """Its new connections fail, and it says that its own clock is why; whoever else calls notices nothing."""
    wrong = time.monotonic()
    clock.set(offset)
    await asyncio.sleep(wrong_s)
    clock.set("+0")
    repaired = time.monotonic()
    await eventually(lambda: calls_went_well(mesh, repaired), within=REPAIRED_S)
    bad = [told for told in calls(mesh, wrong) if told["code"] != "OK"]
    assert {told["code"] for told in bad} == {"UNAVAILABLE"}
    assert all("clock" in told["said"] for told in bad), [told["said"] for told in bad]
    assert any("this machine's clock was set" in told["said"] for told in bad)
    assert not load.refused(wrong)
    return (
        f"refused after {bad[0]['at'] - wrong:.2f} s, well {bad[-1]['at'] - repaired:.2f} s after the repair"
    )


async def a_server(mesh: Fleet, load: Customers, clock: WallClock, offset: str, wrong_s: float) -> str:
    """It serves nobody; whoever calls it is told that a clock is wrong."""
    [row] = [row for row in await mesh.local.rows() if row.name == "catalog-1"]
    # A connection so young outlives this; the customers' may end by its age before the clock is looked at.
    async with dialled(row.address, SpiffeId.parse(row.identity), mesh.local.credentials) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        await channel.channel_ready()
        wrong = time.monotonic()
        clock.set(offset)
        await asyncio.sleep(wrong_s / 2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(), timeout=2)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert [info.reason for info in error_infos(caught.value)] == ["IDENTITY_UNFIT"]
    assert "clock" in (caught.value.details() or "")
    await asyncio.sleep(wrong + wrong_s - time.monotonic())
    clock.set("+0")
    repaired = time.monotonic()
    well = await load.well(within=REPAIRED_S)
    await mesh.serving(within=REPAIRED_S)  # a stream that ended meanwhile is open again
    refused = load.refused(wrong, "GetProduct")
    dates = "SVID_EXPIRED" if offset[0] == "+" else "SVID_NOT_YET_VALID"
    assert reasons(refused) <= {
        ("UNAUTHENTICATED", dates),
        ("UNAVAILABLE", "IDENTITY_UNFIT"),
        ("UNAVAILABLE", ""),  # refused in the handshake: our own client says why
    }
    assert refused
    assert [each for each in refused if "clock" not in each.said] == []
    orders = load.refused(wrong, "PlaceOrder")
    assert all(each.reason or each.code is grpc.StatusCode.DEADLINE_EXCEEDED for each in orders)
    first = min(each.at + each.took for each in refused) - wrong
    return f"refused after {first:.2f} s, well {well - repaired:.2f} s after the repair"


async def control(mesh: Fleet, load: Customers, clock: WallClock, offset: str, wrong_s: float) -> str:
    """Nobody joins or is invited; who has joined goes on as if nothing were; no invitation is lost."""
    invitation = await mesh.admin.Invite(admin_pb2.InviteRequest(name="late"), timeout=5)
    wrong = time.monotonic()
    clock.set(offset)
    await asyncio.sleep(wrong_s / 2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.admin.Invite(admin_pb2.InviteRequest(name="later"), timeout=5)
    assert caught.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)
    assert "clock" in (caught.value.details() or "")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await join(mesh, invitation)
    assert is_impostor(
        caught.value
    )  # which a process that joins is told with the words "or a clock is wrong"
    await asyncio.sleep(wrong + wrong_s - time.monotonic())
    clock.set("+0")
    repaired = time.monotonic()
    admission = await succeeds(lambda: join(mesh, invitation))
    assert admission.credentials.svid.spiffe_id.name == "late"
    await succeeds(lambda: mesh.admin.Invite(admin_pb2.InviteRequest(name="later"), timeout=5))
    await mesh.serving(within=REPAIRED_S)
    well = time.monotonic() - repaired
    assert not harmed(load, wrong)
    assert not [told for told in calls(mesh, wrong) if told["code"] in ("UNAVAILABLE", "UNAUTHENTICATED")]
    return f"who joins is refused at once, well {well:.2f} s after the repair"


BREAK = {"gateway-1": a_client, "catalog-1": a_server, "control": control}


def harmed(load: Customers, since: float) -> list[Answer]:
    """Answers to the others that are a clock's doing; a machine that is busy may still be late."""
    return [each for each in load.refused(since) if each.code.name in ("UNAVAILABLE", "UNAUTHENTICATED")]


async def succeeds(attempt: Callable[[], Awaitable[T]]) -> T:
    """What it returns once it does, by nobody's hand and in time."""
    async with asyncio.timeout(REPAIRED_S):
        while True:
            try:
                return await attempt()
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)


def old_authority(folder: Path) -> None:
    """One that was there long before the clock can be set back to."""
    state = State.beside(folder / "mesh.toml")
    state.folder.mkdir(mode=0o700)
    Authority.create(state.ca, "shop.test", now=datetime.now(UTC) - timedelta(days=30))


async def start_caller(mesh: Fleet) -> None:
    [row] = [row for row in await mesh.local.rows() if row.name == "catalog-1"]
    mesh.environment["gateway-1"] = {**mesh.environment["gateway-1"], "CATALOG": row.address}
    began = time.monotonic()
    await mesh.start("gateway-1")
    await eventually(lambda: calls_went_well(mesh, began), within=20)


def calls(mesh: Fleet, since: float) -> list[dict[str, Any]]:
    """How each call of the caller ended that began after `since`."""
    told = [json.loads(line.partition(" | ")[2]) for line in mesh.said("gateway-1", '{"at":')]
    return [each for each in told if each["at"] >= since]


def calls_went_well(mesh: Fleet, since: float) -> bool:
    """Whether the last ten did, some of them over new connections."""
    last = calls(mesh, since)[-10:]
    return len(last) == 10 and all(told["code"] == "OK" for told in last)
