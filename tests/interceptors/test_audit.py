"""The audit log: refusals, and the calls of methods that their contract marks; nothing of it gets lost."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from hauberk.interceptors.audit import AuditLog
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.policy import Idempotency, Policy
from tests.faults.small_disk import SmallDisk, small_disk
from tests.interceptors.stage import SERVICE, Shape, Stage, call, echo, info, method, policy

ME = "spiffe://mesh.test/server"
UNARY = Shape.UNARY_UNARY


def audited(shape: Shape = UNARY, **other: Any) -> Policy:
    return dataclasses.replace(policy("Echo", shape, "gateway"), audit=True, **other)


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def served(stage: Stage, log: AuditLog, said: Policy, seen: list[Any] | None = None) -> Any:
    """Serve Echo so; the records that go to `log`."""
    shape = Shape((said.request_streaming, said.response_streaming))
    records = stage.keeping(log)
    guard = stage.new_guard(records=records, audit=log)
    await stage.serve({"Echo": (shape, echo(shape, seen), said)}, guard=guard)
    return records


async def refused(stage: Stage, shape: Shape = UNARY, name: str = "gateway") -> AioRpcError:
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(name), shape, within=5)
    return caught.value


async def test_call_is_written_before_it_begins_and_when_it_has_ended(
    stage: Stage, shape: Shape, tmp_path: Path
) -> None:
    log = AuditLog(tmp_path / "audit", ME)
    records = await served(stage, log, audited(shape))
    await call(stage.channel(), shape)
    await stage.server.stop(5)
    records.close()
    begun, ended = lines(tmp_path / "audit", "calls.log")
    assert (begun["event.action"], ended["event.action"]) == ("begun", "ended")
    for line in (begun, ended):
        assert line["rpc.method"] == "/lab.v1.Lab/Echo"
        assert line["client.spiffe_id"] == "spiffe://mesh.test/gateway"
        assert line["client.address"].startswith("ipv4:127.0.0.1:")
        assert line["service.name"] == ME
    assert begun["span.id"] == ended["span.id"]
    assert (ended["grpc.status"], ended["error.reason"]) == ("OK", None)
    assert lines(tmp_path / "audit", "refusals.log") == []


async def test_refusal_is_written_whatever_the_method_says(
    stage: Stage, shape: Shape, tmp_path: Path
) -> None:
    log = AuditLog(tmp_path / "audit", ME)
    records = await served(stage, log, policy("Echo", shape, "gateway"))
    await call(stage.channel(), shape)
    await refused(stage, shape, "stranger")
    await stage.server.stop(5)
    records.close()
    (line,) = lines(tmp_path / "audit", "refusals.log")
    assert line["event.action"] == "refused"
    assert (line["grpc.status"], line["error.reason"]) == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")
    assert line["client.spiffe_id"] == "spiffe://mesh.test/stranger"
    assert lines(tmp_path / "audit", "calls.log") == [], "the method is not marked"


def test_method_is_not_served_without_a_log_for_it(stage: Stage) -> None:
    guard = stage.new_guard()
    with pytest.raises(PolicyError, match="Lab/Echo is to be audited, and there is no audit log here"):
        guard.add(SERVICE, {"Echo": method(echo(UNARY), UNARY)}, {"Echo": audited()})


@pytest.fixture
def disk(tmp_path: Path) -> Any:
    folder = tmp_path / "audit"
    with small_disk(folder, size="256k") as made:
        yield made


async def test_while_the_disk_is_full_no_marked_method_begins_and_none_is_forgotten(
    stage: Stage, shape: Shape, disk: SmallDisk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    log = AuditLog(tmp_path / "audit", ME)
    records = await served(stage, log, audited(shape), seen)
    try:
        for _ in range(3):
            await call(stage.channel(), shape)
        records.flush()
        disk.fill()
        with caplog.at_level(logging.ERROR):
            await fill_the_last_page(stage, shape)
            began = len(seen)
            for _ in range(20):
                error = await refused(stage, shape)
        assert (error.code(), info(error).reason) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNWRITABLE")
        assert len(seen) == began
        told = [line for line in caplog.messages if "cannot be written: no space left" in line]
        assert 1 <= len(told) <= 4, "it is said, and not for every call"
        disk.free()
        await call(stage.channel(), shape)
        await stage.server.stop(5)
        records.close()
    finally:
        log.close()
    assert log.lost == 0
    calls = lines_of_all(tmp_path / "audit" / "calls.log")
    ended = [line for line in calls if line["event.action"] == "ended"]
    assert [line["grpc.status"] for line in ended].count("OK") == len(seen) == began + 1
    assert [line["error.reason"] for line in ended].count("AUDIT_UNWRITABLE") == 21
    begun = {line["span.id"] for line in calls if line["event.action"] == "begun"}
    assert begun >= {line["span.id"] for line in ended if line["grpc.status"] == "OK"}
    refusals = lines_of_all(tmp_path / "audit" / "refusals.log")
    assert [line["error.reason"] for line in refusals] == ["AUDIT_UNWRITABLE"] * 21


async def fill_the_last_page(stage: Stage, shape: Shape) -> None:
    """What was begun of it takes some lines more on a full disk."""
    for _ in range(40):
        try:
            await call(stage.channel(), shape)
        except AioRpcError:
            return
    raise AssertionError("no call was refused")


def lines_of_all(path: Path) -> list[dict[str, Any]]:
    """The whole lines; one that a full disk cut short stands alone."""
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            assert line.startswith("{")
    return found


async def test_what_only_reads_goes_on_while_the_log_cannot_be_written(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file where the folder should be")
    log = AuditLog(tmp_path / "audit", ME)
    await served(stage, log, audited(idempotency=Idempotency.NO_SIDE_EFFECTS))
    assert await call(stage.channel(), UNARY) == [b"hello"]


async def test_what_no_memory_is_left_for_is_counted_and_told(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "audit").write_text("a file where the folder should be")
    log = AuditLog(tmp_path / "audit", ME, owed=3)
    records = await served(stage, log, policy("Echo", UNARY, "nobody"))
    for _ in range(5):
        await refused(stage)
    await stage.server.stop(5)
    records.close()
    assert log.lost == 2
    log.close()
    assert log.lost == 5
    assert "5 lines are missing from" in caplog.text
