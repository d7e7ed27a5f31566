"""What a user's tests may rely on: their services behind our checks, and callers, tokens, time at hand."""

import asyncio
from pathlib import Path
from typing import Any

import flask
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import hauberk.wsgi
from hauberk.interceptors.errors import PolicyError
from hauberk.testing import LocalMesh, refused
from tests.testing.tickets import Contract

KINDS = ("coroutines", "plain")


@pytest.fixture(scope="session")
def contract(example: Path) -> Contract:
    return Contract(example)


def customer(mesh: LocalMesh, **claims: Any) -> str:
    return mesh.token("alice", **{"caller": "gateway", "roles": ["customer"], **claims})


@pytest.mark.parametrize("kind", KINDS)
async def test_methods_of_both_kinds_are_served_behind_their_policy(
    hauberk_mesh: LocalMesh, contract: Contract, kind: str
) -> None:
    tickets = getattr(contract, kind)()
    async with hauberk_mesh.serving(tickets, name="tickets"):
        stub = contract.stub(hauberk_mesh.channel("gateway", token=customer(hauberk_mesh)))
        assert (await stub.Buy(contract.seat(), timeout=5)).holder == "alice"
        watch = contract.messages.WatchSalesRequest()
        assert [each.seat async for each in stub.WatchSales(watch, timeout=5)] == ["A1"]
        assert len(tickets.ran) == 1
        assert tickets.ran[0].startswith("hauberk-worker" if kind == "plain" else "alice")
        with refused("FAILED_PRECONDITION", reason="DEADLINE_REQUIRED"):
            await stub.Buy(contract.seat())
        with refused(grpc.StatusCode.PERMISSION_DENIED) as refusal:
            await contract.stub(hauberk_mesh.channel("printer")).Buy(contract.seat(), timeout=5)
        assert refusal.reason == "CALLER_NOT_ALLOWED"
        assert refusal.facts["caller"] == "spiffe://mesh.test/printer"
    assert len(tickets.ran) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_tests_that_are_not_asyncio_have_all_of_it_too(
    hauberk_mesh: LocalMesh, contract: Contract, kind: str
) -> None:
    tickets = getattr(contract, kind)()
    with hauberk_mesh.serving_blocking(tickets, name="tickets"):
        stub = contract.stub(hauberk_mesh.blocking_channel("gateway", token=customer(hauberk_mesh)))
        assert stub.Buy(contract.seat(), timeout=5).holder == "alice"
        reply, call = stub.Buy.with_call(contract.seat("A2"), timeout=5)
        assert (reply.seat, call.code()) == ("A2", grpc.StatusCode.OK)
        with refused("RESOURCE_EXHAUSTED", reason="QUOTA_SPENT") as refusal:
            stub.Buy.future(contract.seat(), timeout=5).result()
        assert refusal.retry_after_s == pytest.approx(30, abs=0.1)
        hauberk_mesh.clock.advance(30)
        stub.Buy(contract.seat(), timeout=5)
        watch = contract.messages.WatchSalesRequest()
        assert [each.seat for each in stub.WatchSales(watch, timeout=5)] == ["A1"]
        entries = hauberk_mesh.log.wait(5)
        assert [each["error.reason"] for each in entries] == [None, None, "QUOTA_SPENT", None, None]
    with refused("UNAVAILABLE", reason="NOBODY_SERVES"):
        stub.Buy(contract.seat(), timeout=5)


@pytest.mark.parametrize(
    ("claims", "found"),
    [
        ({"caller": None}, "TOKEN_OF_ANOTHER_CERTIFICATE"),
        ({"caller": "printer"}, "TOKEN_OF_ANOTHER_CERTIFICATE"),
        ({"aud": "https://other.test"}, "TOKEN_AUDIENCE"),
        ({"iss": "https://other.test"}, "TOKEN_ISSUER_UNKNOWN"),
    ],
    ids=["bound to nobody", "bound to another", "audience", "issuer"],
)
async def test_token_that_is_not_good_is_refused_and_the_log_says_why(
    hauberk_mesh: LocalMesh, contract: Contract, claims: dict[str, Any], found: str
) -> None:
    async with hauberk_mesh.serving(contract.coroutines(), name="tickets"):
        stub = contract.stub(hauberk_mesh.channel("gateway", token=customer(hauberk_mesh, **claims)))
        with refused("UNAUTHENTICATED", reason="TOKEN_REFUSED") as refusal:
            await stub.Buy(contract.seat(), timeout=5)
        (entry,) = await hauberk_mesh.log.reach(1)
    assert (entry["grpc.status"], entry["error.reason"]) == ("UNAUTHENTICATED", found)
    assert entry["trace.id"] == refusal.facts["trace_id"]
    assert entry["service.name"] == "spiffe://mesh.test/tickets"


async def test_tokens_and_quotas_go_by_the_clock_of_the_mesh(
    hauberk_mesh: LocalMesh, contract: Contract
) -> None:
    async with hauberk_mesh.serving(contract.coroutines(), name="tickets"):
        brought = customer(hauberk_mesh, lifetime_s=100)
        stub = contract.stub(hauberk_mesh.channel("gateway", token=brought))
        for _ in range(2):
            await stub.Buy(contract.seat(), timeout=5)
        hauberk_mesh.clock.advance(29)
        with refused("RESOURCE_EXHAUSTED", reason="QUOTA_SPENT"):
            await stub.Buy(contract.seat(), timeout=5)
        hauberk_mesh.clock.advance(1)
        await stub.Buy(contract.seat(), timeout=5)
        hauberk_mesh.clock.advance(71)
        with refused("UNAUTHENTICATED", reason="TOKEN_REFUSED"):
            await stub.Buy(contract.seat(), timeout=5)
    with pytest.raises(ValueError, match="time does not go back: -1 s"):
        hauberk_mesh.clock.advance(-1)


def test_web_application_is_tested_with_the_services_it_calls(
    hauberk_mesh: LocalMesh, contract: Contract
) -> None:
    """Its user's token travels on, as behind a real server."""
    app = flask.Flask("box office")
    app.wsgi_app = hauberk.wsgi.Inherits(  # type: ignore[method-assign]
        app.wsgi_app, pass_token_to=["tickets.v1.Tickets"]
    )
    tickets = contract.stub(hauberk_mesh.blocking_channel("gateway"))

    @app.get("/buy/<seat>")
    def buy(seat: str) -> str:
        return str(tickets.Buy(contract.seat(seat)).holder)

    with hauberk_mesh.serving_blocking(contract.plain(), name="tickets"):
        headers = {"authorization": f"Bearer {customer(hauberk_mesh)}"}
        assert app.test_client().get("/buy/A1", headers=headers).text == "alice"


async def test_log_is_whole_once_the_server_has_stopped(hauberk_mesh: LocalMesh, contract: Contract) -> None:
    async with hauberk_mesh.serving(contract.coroutines(), name="tickets"):
        stub = contract.stub(hauberk_mesh.channel("printer"))
        made = [asyncio.ensure_future(stub.Buy(contract.seat(), timeout=5)) for _ in range(20)]
        await asyncio.wait(made)
    assert [each["error.reason"] for each in hauberk_mesh.log.entries] == ["CALLER_NOT_ALLOWED"] * 20
    with pytest.raises(AssertionError, match="20 calls are in the log, not 21"):
        await hauberk_mesh.log.reach(21, within_s=0.01)


async def test_contract_that_nobody_serves_is_unavailable(
    hauberk_mesh: LocalMesh, contract: Contract
) -> None:
    stub = contract.stub(hauberk_mesh.channel("gateway"))
    with refused("UNAVAILABLE", reason="NOBODY_SERVES") as refusal:
        await stub.Buy(contract.seat(), timeout=5)
    assert "nobody serves tickets.v1.Tickets in this mesh" in refusal.details
    async with hauberk_mesh.serving(contract.coroutines(), name="tickets"):
        with refused("UNAUTHENTICATED", reason="TOKEN_MISSING"):
            await stub.Buy(contract.seat(), timeout=5)
    with refused("UNAVAILABLE", reason="NOBODY_SERVES"):
        await stub.Buy(contract.seat(), timeout=5)
    async with hauberk_mesh.serving(contract.coroutines(), name="tickets"):
        with refused("UNAUTHENTICATED", reason="TOKEN_MISSING"):
            await stub.Buy(contract.seat(), timeout=5)


async def test_what_cannot_be_served_is_told_when_it_is_tried(
    hauberk_mesh: LocalMesh, contract: Contract
) -> None:
    class Health(health_pb2_grpc.HealthServicer):
        async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
            return health_pb2.HealthCheckResponse()

    with pytest.raises(TypeError, match="object is no servicer"):
        async with hauberk_mesh.serving(object(), name="tickets"):
            pass
    with pytest.raises(PolicyError, match="is added twice"):
        async with hauberk_mesh.serving(Health(), name="tickets"):
            pass
    async with hauberk_mesh.serving(contract.coroutines(), name="tickets"):
        with pytest.raises(ValueError, match=r"tickets.v1.Tickets is served by tickets already"):
            async with hauberk_mesh.serving(contract.plain(), name="others"):
                pass


class Failed(grpc.RpcError):
    """As a call fails."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.NOT_FOUND

    def details(self) -> str:
        return "no such thing"

    def trailing_metadata(self) -> Any:
        return ()


@pytest.mark.parametrize(
    ("expected", "reason", "told"),
    [
        ("OK", None, "refused with NOT_FOUND, reason None: no such thing; expected OK"),
        ("NOT_FOUND", "GONE", "expected NOT_FOUND, reason GONE"),
    ],
)
def test_refused_otherwise_is_a_failed_test(expected: str, reason: str | None, told: str) -> None:
    with pytest.raises(AssertionError, match=told), refused(expected, reason=reason):
        raise Failed


def test_nothing_refused_is_a_failed_test_and_what_is_no_refusal_goes_through() -> None:
    with pytest.raises(AssertionError, match="nothing was refused; expected NOT_FOUND"), refused("NOT_FOUND"):
        pass
    with pytest.raises(ValueError, match="other"), refused("NOT_FOUND"):
        raise ValueError("other")
    with refused("NOT_FOUND") as refusal:
        raise Failed
    assert (refusal.code, refusal.details, refusal.reason) == ("NOT_FOUND", "no such thing", None)
