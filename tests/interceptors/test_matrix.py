"""The matrix: every check of the guard, in the four shapes, on both servers, allowed and refused.

One cell is one server, over TLS, and two calls of it. The one that the row is about is refused with exactly
its status and reason, before its method runs; the other, with nothing wrong about it, is served. Each leaves
one record that says so. What has no row is found too.
"""

import ast
import dataclasses
from collections.abc import AsyncIterator, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from hauberk.certs.watch import Watch
from hauberk.interceptors import errors
from hauberk.interceptors.audit import AuditLog
from hauberk.interceptors.demands import (
    ClaimRule,
    DeadlineRule,
    MessageBounds,
    Priority,
    QuotaKey,
    QuotaRule,
    TokenRule,
)
from hauberk.interceptors.in_flight import InFlight
from hauberk.interceptors.peer import PeerCheck
from hauberk.interceptors.pipeline import Pipeline
from hauberk.interceptors.policy import Policy
from hauberk.interceptors.quota import Quotas
from tests.conftest import REPOSITORY
from tests.interceptors.matrix import Row, Runs
from tests.interceptors.matrix_rows import ROWS
from tests.interceptors.matrix_scene import GOOD, SECRET, Scene, kind
from tests.interceptors.stage import TRUST_DOMAIN, Shape, Stage, policy
from tests.interceptors.threaded_stage import ThreadedStage
from tests.interceptors.token_forge import Forge

SERVED_BY = ("asyncio", "threaded")

CALLERS_SIDE = {"CHANNEL_CLOSED", "SERVER_REVOKED", "BROKEN_OFF"}
"""Refusals that no server makes: our own channels do, when there is nobody to call."""
OF_A_KIND = {"UNIDENTIFIED"}
"""Reasons of classes that are never raised without another one."""
NO_CHECKS = {
    "method",
    "request_streaming",
    "response_streaming",
    "idempotency",
    "origin",
    "priority",
    "anonymous",
    "shadow",
    "tried",
    "overridden",
}
"""Fields of a policy that let nobody in or out by themselves."""

CELLS = [(row, shape) for row in ROWS for shape in row.shapes]


def named(row: Row) -> str:
    return f"{row.check}-{(row.logged or row.reason or row.code).lower()}"


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One authority for all: a new one is on disk, and that takes a while."""
    return tmp_path_factory.mktemp("ca")


@pytest.fixture
async def scene(ca: Path, tmp_path: Path, served_by: str, cell: tuple[Row, Shape]) -> AsyncIterator[Scene]:
    stage = ThreadedStage(ca) if served_by == "threaded" else Stage(ca)
    yield Scene(stage, tmp_path, cell[1])
    await stage.close()


@pytest.mark.parametrize("cell", CELLS, ids=[f"{named(row)}-{shape.name.lower()}" for row, shape in CELLS])
async def test_one_call_is_refused_for_its_own_reason_and_another_is_served(
    scene: Scene, cell: tuple[Row, Shape]
) -> None:
    row, shape = cell
    await scene.serve(row.said, row.server(scene), **row.guard(scene))
    async with row.wrong(scene):
        before = scene.ran
        outcome = await scene.send(row.refused)
        ran = scene.ran - before
    assert outcome.code == row.code, outcome.text
    assert (None if outcome.info is None else outcome.info.reason) == row.reason
    assert outcome.retry == row.retry
    assert SECRET not in outcome.text
    reads_itself = row.runs is Runs.STREAMS and shape.requests_stream
    assert ran == (row.runs is Runs.ALWAYS or reads_itself)
    if reads_itself:
        assert scene.read == ["anna" for _ in takewhile(GOOD.__eq__, row.refused.asks)]

    before = scene.ran
    assert (await scene.send(row.allowed)).code == "OK"
    assert scene.ran == before + 1

    await scene.stage.close()
    scene.audit.close()
    lines = await scene.stage.records(0)
    told = [(line["grpc.status"], line["error.reason"]) for line in lines]
    refusals = [] if row.reason is None else [(row.code, row.logged or row.reason)]
    assert [each for each in told if each in refusals] == refusals
    assert ("OK", None) in told
    assert len(told) == len(refusals) + 1 + row.others
    if outcome.info is not None:
        (line,) = [line for line in lines if line["error.reason"] == (row.logged or row.reason)]
        assert line["trace.id"] == outcome.info.metadata["trace_id"]


def test_every_refusal_that_a_server_makes_has_a_row() -> None:
    rows = {row.refusal for row in ROWS}
    kinds = {each for each in subclasses(errors.Refused) if each.reason not in CALLERS_SIDE}
    assert {errors.RuleFailed, *kinds} - rows == set()


def test_every_reason_that_the_guard_gives_has_a_row() -> None:
    """Read from the source: whatever is said to be a reason there."""
    files = sorted((REPOSITORY / "interceptors").glob("*.py"))
    said = {reason for file in files for reason in reasons(ast.parse(file.read_text()))}
    shown = {row.logged or row.reason for row in ROWS} | {row.reason for row in ROWS}
    assert len(said) > 40
    assert said - shown == CALLERS_SIDE | OF_A_KIND


def test_every_check_of_the_pipeline_has_a_row_and_they_are_in_its_order(tmp_path: Path) -> None:
    guarded = demanding_everything(tmp_path)
    asked = [check_of(check) for check in guarded.checks]
    shown = list(dict.fromkeys(row.check for row in ROWS))
    assert [check for check in shown if check in asked] == asked
    assert guarded.charge is not None
    assert check_of(guarded.charge) in shown


def test_every_demand_of_a_policy_is_one_of_a_row() -> None:
    """A new field of a policy needs one, or is no check."""
    fields = {field.name for field in dataclasses.fields(Policy)}
    assert fields - {name for row in ROWS for name in row.said} == NO_CHECKS


def demanding_everything(folder: Path) -> Pipeline:
    said = dataclasses.replace(
        policy("Ask", Shape.UNARY_UNARY, "*"),
        deadline=DeadlineRule(required=True, max_s=1),
        token=TokenRule(roles=("a",), scopes=("a",), claims=(ClaimRule("a"),), pass_on=("a.b",)),
        quotas=(QuotaRule(limit=1, per_s=1, burst=1, key=QuotaKey.SUBJECT, cost="cost"),),
        priority=Priority.HIGH,
        audit=True,
        message=MessageBounds(max_bytes=1, max_items=1),
    )
    trust: Any = Watch(None)
    return Pipeline.of(
        said,
        peer_check=PeerCheck(trust),
        in_flight=InFlight(),
        quotas=Quotas(),
        trust_domain=TRUST_DOMAIN,
        tokens=Forge().tokens(),
        audit=AuditLog(folder, "server"),
        request=kind().DESCRIPTOR,
    )


def check_of(check: Any) -> str:
    return str(check.__name__)


def subclasses(kind: type[errors.Refused]) -> Iterator[type[errors.Refused]]:
    yield kind
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from subclasses(each)


def reasons(tree: ast.AST) -> Iterator[str]:
    """Of `reason="..."`, and the first argument of `_refused` and TokenRefused."""
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="reason", value=ast.Constant(value=str(reason))):
                yield reason
            case ast.Assign(targets=[ast.Name(id="reason")], value=ast.Constant(value=str(reason))):
                yield reason
            case ast.Call(
                func=ast.Name(id="_refused" | "TokenRefused") | ast.Attribute(attr="_refused"),
                args=[ast.Constant(value=str(reason)), *_],
            ):
                yield reason
