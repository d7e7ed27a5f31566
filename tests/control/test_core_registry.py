"""The announcement stream is a replica's lease: what callers are told follows it, and nothing else."""

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.services.control.snapshot import Status
from tests.control.core_mesh import (
    CALL_S,
    CATALOG,
    DRAINING,
    NOT_SERVING,
    PAYMENTS,
    SERVING,
    Announced,
    CoreMesh,
    Workload,
    core_mesh,
    offer,
    reason_of,
    shop_descriptors,
)

HERE, THERE = "127.0.0.1:4001", "127.0.0.1:4002"


async def refused(workload: Workload, **changed: Any) -> tuple[grpc.StatusCode, str, str]:
    """Code, reason and message with which an offer is refused."""
    call = workload.registry.Announce()
    await Announced(call).say(offer=offer(**changed))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        assert await call.read() is not grpc.aio.EOF
    return error.value.code(), reason_of(error.value), error.value.details() or ""


async def test_the_first_answer_comes_when_callers_are_told(mesh: CoreMesh) -> None:
    catalog = await mesh.join("catalog", [CATALOG])
    announced = Announced(catalog.registry.Announce())
    await announced.say(offer=offer(address=HERE, agent="hauberk 0.1.0"))
    assert await announced.heard() == SERVING
    replica = mesh.listed()["catalog#1"]
    assert (replica.address, replica.status, replica.agent) == (HERE, Status.SERVING, "hauberk 0.1.0")
    assert replica.contracts == (CATALOG,)
    assert replica.svid_expires_at == catalog.credentials.svid.expires_at
    [contract] = mesh.plane.publisher.snapshots.value.workloads["catalog"].contracts
    assert contract.service == CATALOG
    assert replica.policy_versions == {CATALOG: contract.version}


async def test_an_announcement_does_not_wait_for_a_store_that_hangs(mesh: CoreMesh) -> None:
    catalog = await mesh.join("catalog", [CATALOG])
    answers = threading.Event()
    questions = asyncio.gather(*(asyncio.to_thread(answers.wait, 2 * CALL_S) for _ in range(40)))
    try:
        await catalog.announce()
        assert not answers.is_set()
    finally:
        answers.set()
        await questions


async def test_a_status_is_in_force_when_it_is_confirmed(mesh: CoreMesh) -> None:
    announced = await (await mesh.join("catalog", [CATALOG])).announce()
    for said, status in (
        (NOT_SERVING, Status.NOT_SERVING),
        (SERVING, Status.SERVING),
        (DRAINING, Status.DRAINING),
    ):
        await announced.say(status=said)
        assert await announced.heard() == said
        assert mesh.listed()["catalog#1"].status is status


async def test_a_replica_may_begin_as_not_serving(mesh: CoreMesh) -> None:
    catalog = await mesh.join("catalog", [CATALOG])
    announced = Announced(catalog.registry.Announce())
    await announced.say(offer=offer(), status=NOT_SERVING)
    assert await announced.heard() == NOT_SERVING
    assert mesh.listed()["catalog#1"].status is Status.NOT_SERVING


async def test_a_draining_replica_is_gone_with_its_stream(mesh: CoreMesh) -> None:
    announced = await (await mesh.join("catalog", [CATALOG])).announce()
    await announced.say(status=DRAINING)
    await announced.heard()
    await announced.call.done_writing()
    assert await announced.ended() == (grpc.StatusCode.OK, "")
    mesh.plane.roster.flush()
    assert mesh.listed() == {}


async def test_a_stream_that_breaks_leaves_the_replica_for_a_grace(mesh: CoreMesh) -> None:
    announced = await (await mesh.join("catalog", [CATALOG])).announce()
    announced.call.cancel()
    started = asyncio.get_running_loop().time()
    await mesh.until_listed()
    assert 2.5 < asyncio.get_running_loop().time() - started < 5


async def test_the_contract_outlives_its_last_replica(mesh: CoreMesh) -> None:
    """A known contract without live endpoints keeps its route: callers get UNAVAILABLE, not a refusal."""
    announced = await (await mesh.join("catalog", [CATALOG])).announce()
    await announced.say(status=DRAINING)
    await announced.heard()
    await announced.call.done_writing()
    await announced.ended()
    mesh.plane.roster.flush()
    workload = mesh.plane.publisher.snapshots.value.workloads["catalog"]
    assert workload.replicas == ()
    assert [contract.service for contract in workload.contracts] == [CATALOG]


async def test_a_new_stream_takes_over_without_a_change_for_callers(mesh: CoreMesh) -> None:
    catalog = await mesh.join("catalog", [CATALOG])
    old = await catalog.announce()
    published = mesh.plane.publisher.snapshots.version
    new = await catalog.announce()
    assert await old.ended() == (grpc.StatusCode.OK, "")
    await asyncio.sleep(0.3)
    assert mesh.plane.publisher.snapshots.version == published
    await new.say(status=NOT_SERVING)
    assert await new.heard() == NOT_SERVING


async def test_a_replica_that_comes_back_may_have_moved(mesh: CoreMesh) -> None:
    catalog = await mesh.join("catalog", [CATALOG])
    old = await catalog.announce(address=HERE)
    await old.call.done_writing()
    assert (await old.ended())[0] is grpc.StatusCode.OK
    await catalog.announce(address=THERE)
    assert {name: each.address for name, each in mesh.listed().items()} == {"catalog#1": THERE}


async def test_two_living_processes_cannot_be_one_replica(mesh: CoreMesh) -> None:
    catalog = await mesh.join("catalog", [CATALOG])
    first = await catalog.announce(address=HERE)
    code, reason, message = await refused(catalog, address=THERE)
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REPLICA_TAKEN")
    assert f"catalog#1 is alive at {HERE}" in message
    assert not first.call.done()


async def test_replicas_of_one_workload_stand_side_by_side(mesh: CoreMesh) -> None:
    catalog = await mesh.join("catalog", [CATALOG])
    await catalog.announce(replica="1", address=HERE)
    await catalog.announce(replica="2", address=THERE)
    await mesh.until_listed("catalog#1", "catalog#2")


async def test_a_workload_that_serves_nothing_may_announce_itself(mesh: CoreMesh) -> None:
    gateway = await mesh.join("gateway")
    await gateway.announce(serves=(), descriptors=b"")
    await mesh.until_listed("gateway#1")


async def test_a_contract_of_another_is_refused_with_an_alarm_and_nobody_is_sent_there(
    mesh: CoreMesh, caplog: pytest.LogCaptureFixture
) -> None:
    catalog, thief = await mesh.join("catalog", [CATALOG]), await mesh.join("thief", [PAYMENTS])
    await catalog.announce(address=HERE)
    with caplog.at_level(logging.WARNING):
        code, reason, message = await refused(thief, serves=(CATALOG, PAYMENTS), address=THERE)
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "CONTRACT_NOT_BOUND")
    assert f"thief announced {CATALOG}, which it may not serve" in message
    assert [r.levelname for r in caplog.records if r.message.startswith("alarm:")] == ["WARNING"]
    mesh.plane.roster.flush()
    assert list(mesh.listed()) == ["catalog#1"]
    assert "thief" not in mesh.plane.publisher.snapshots.value.workloads


async def test_an_unbound_contract_is_refused(mesh: CoreMesh) -> None:
    gateway = await mesh.join("gateway")
    assert (await refused(gateway))[:2] == (grpc.StatusCode.PERMISSION_DENIED, "CONTRACT_NOT_BOUND")


async def test_operators_serve_nothing(mesh: CoreMesh) -> None:
    operator = await mesh.operator()
    assert (await refused(operator, serves=()))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_who_loses_a_contract_is_dropped_at_once(mesh: CoreMesh) -> None:
    announced = await (await mesh.join("catalog", [CATALOG])).announce()
    await mesh.token("catalog", [PAYMENTS])
    code, message = await announced.ended()
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "no longer bound" in message
    mesh.plane.roster.flush()
    assert mesh.listed() == {}
    assert mesh.plane.publisher.snapshots.value.workloads == {}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"address": "catalog:4001"}, "not an ip address and a port"),
        ({"address": "127.0.0.1"}, "without a port"),
        ({"address": "127.0.0.1:0"}, "without a port"),
        ({"address": "127.0.0.1:70000"}, "without a port"),
        ({"address": "0.0.0.0:4001"}, "no caller can connect"),
        ({"address": "[::]:4001"}, "no caller can connect"),
        ({"address": "224.0.0.1:4001"}, "no caller can connect"),
        ({"address": "unix:/tmp/x"}, "without a port"),
        ({"replica": ""}, "replica is not 1 to 64 printable"),
        ({"replica": "x" * 65}, "replica is not 1 to 64 printable"),
        ({"replica": "1\n2"}, "replica is not 1 to 64 printable"),
        ({"agent": "x" * 201}, "agent is not 1 to 200 printable"),
        ({"descriptors": b""}, f"lack a contract that is offered: '{CATALOG}'"),
        ({"descriptors": b"\xff\xff"}, "no google.protobuf.FileDescriptorSet"),
        ({"descriptors": b"\x0a" + b"\0" * (1024 * 1024)}, "at most 1048576 are read"),
        ({"descriptors": shop_descriptors() * 2}, "describe a service twice"),
        ({"serves": [f"a.B{n}" for n in range(101)]}, "at most 100"),
    ],
)
async def test_an_offer_that_makes_no_sense_is_refused(
    mesh: CoreMesh, changed: dict[str, Any], says: str
) -> None:
    catalog = await mesh.join("catalog", [CATALOG])
    code, reason, message = await refused(catalog, **changed)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "OFFER_REFUSED")
    assert says in message
    assert mesh.listed() == {}


async def test_uploaded_descriptors_join_no_pool(mesh: CoreMesh) -> None:
    files = FileDescriptorSet.FromString(shop_descriptors())
    del files.file[1:]
    files.file[0].name, files.file[0].package = "stray.proto", "stray.v1"
    catalog = await mesh.join("catalog", ["stray.v1.Catalog"])
    await catalog.announce(serves=["stray.v1.Catalog"], descriptors=files.SerializeToString())
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindServiceByName("stray.v1.Catalog")


async def test_an_address_of_a_living_replica_is_refused(mesh: CoreMesh) -> None:
    catalog, payments = await mesh.join("catalog", [CATALOG]), await mesh.join("payments", [PAYMENTS])
    await catalog.announce(address=HERE)
    code, reason, message = await refused(payments, serves=(PAYMENTS,), address=HERE)
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ADDRESS_TAKEN")
    assert "catalog#1, which is alive" in message


async def test_an_address_that_a_dead_replica_left_is_free(mesh: CoreMesh) -> None:
    catalog, payments = await mesh.join("catalog", [CATALOG]), await mesh.join("payments", [PAYMENTS])
    dead = await catalog.announce(address=HERE)
    dead.call.cancel()
    attempts = 0
    while await refused_or_none(payments) == "ADDRESS_TAKEN" and attempts < 100:
        attempts += 1
    await mesh.until_listed("payments#1")


async def refused_or_none(payments: Workload) -> str | None:
    call = payments.registry.Announce()
    await Announced(call).say(offer=offer(serves=(PAYMENTS,), address=HERE))
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return reason_of(error)
    return None


@pytest.mark.parametrize("first", [{}, {"status": SERVING}])
async def test_a_first_message_without_an_offer_is_refused(mesh: CoreMesh, first: dict[str, Any]) -> None:
    announced = Announced((await mesh.join("catalog", [CATALOG])).registry.Announce())
    await announced.say(**first)
    code, message = await announced.ended()
    assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "the first message holds no offer")


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"offer": offer()}, "in the first message only"),
        ({}, "not a serving status: 0"),
        ({"status": 9}, "status: 9"),
    ],
)
async def test_a_later_message_that_makes_no_sense_ends_the_stream(
    mesh: CoreMesh, message: dict[str, Any], says: str
) -> None:
    announced = await (await mesh.join("catalog", [CATALOG])).announce()
    await announced.say(**message)
    code, told = await announced.ended()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert says in told


async def test_a_revoked_replica_is_dropped_at_once_and_cannot_come_back(mesh: CoreMesh) -> None:
    catalog, operator = await mesh.join("catalog", [CATALOG]), await mesh.operator()
    announced = await catalog.announce()
    await operator.admin.Revoke(admin_pb2.RevokeRequest(name="catalog"))
    assert mesh.listed() == {}
    code, message = await announced.ended()
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "identity was revoked" in message
    assert (await refused(catalog))[:2] == (grpc.StatusCode.UNAUTHENTICATED, "REVOKED")


async def test_a_stopping_control_plane_ends_streams_with_unavailable(tmp_path: Path) -> None:
    async with core_mesh(tmp_path / "state") as mesh:
        announced = await (await mesh.join("catalog", [CATALOG])).announce()
        await mesh.plane.leave()
        code, message = await announced.ended()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "leaving" in message
