"""Tests of a service with its contract's checks before it, over TLS, in this process.

python -m grpc_tools.protoc -I . -I "$(hauberk protos)" --python_out=. --grpc_python_out=. tickets.proto
python -m pytest
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import tickets_pb2
import tickets_pb2_grpc
from tickets import Tickets

from hauberk.testing import LocalMesh, refused


@pytest.fixture
async def tickets(hauberk_mesh: LocalMesh) -> AsyncIterator[Tickets]:
    tickets = Tickets()
    async with hauberk_mesh.serving(tickets, name="tickets"):
        yield tickets


def stub(mesh: LocalMesh, caller: str = "gateway", **token: Any) -> Any:
    """For calls of that workload; with a token of its own where one is described."""
    brought = mesh.token(caller=caller, **token) if token else None
    return tickets_pb2_grpc.TicketsStub(mesh.channel(caller, token=brought))


async def test_a_customer_holds_the_ticket_and_nobody_else_gets_the_seat(
    hauberk_mesh: LocalMesh, tickets: Tickets
) -> None:
    seat = tickets_pb2.BuyRequest(seat="A1")
    alice = stub(hauberk_mesh, subject="alice", roles=["customer"])
    assert (await alice.Buy(seat, timeout=2)).holder == "alice"
    with refused("ALREADY_EXISTS", reason="TAKEN"):
        await stub(hauberk_mesh, subject="bob", roles=["customer"]).Buy(seat, timeout=2)
    assert tickets.sold == {"A1": "alice"}


async def test_nobody_buys_without_a_customers_token(hauberk_mesh: LocalMesh, tickets: Tickets) -> None:
    seat = tickets_pb2.BuyRequest(seat="A1")
    with refused("UNAUTHENTICATED", reason="TOKEN_MISSING"):
        await stub(hauberk_mesh).Buy(seat, timeout=2)
    with refused("PERMISSION_DENIED", reason="ROLE_MISSING"):
        await stub(hauberk_mesh, subject="alice", roles=["clerk"]).Buy(seat, timeout=2)
    with refused("PERMISSION_DENIED", reason="CALLER_NOT_ALLOWED"):
        await stub(hauberk_mesh, "printer", subject="alice", roles=["customer"]).Buy(seat, timeout=2)
    assert not tickets.sold


async def test_a_token_ends(hauberk_mesh: LocalMesh, tickets: Tickets) -> None:
    alice = stub(hauberk_mesh, subject="alice", roles=["customer"], lifetime_s=60)
    await alice.Buy(tickets_pb2.BuyRequest(seat="A1"), timeout=2)
    hauberk_mesh.clock.advance(60)
    with refused("UNAUTHENTICATED", reason="TOKEN_REFUSED"):
        await alice.Buy(tickets_pb2.BuyRequest(seat="A2"), timeout=2)
    _, refusal = await hauberk_mesh.log.reach(2)
    assert refusal["error.reason"] == "TOKEN_EXPIRED"  # its caller is not told


async def test_two_tickets_a_minute(hauberk_mesh: LocalMesh, tickets: Tickets) -> None:
    alice = stub(hauberk_mesh, subject="alice", roles=["customer"])
    for seat in ("A1", "A2"):
        await alice.Buy(tickets_pb2.BuyRequest(seat=seat), timeout=2)
    with refused("RESOURCE_EXHAUSTED", reason="QUOTA_SPENT") as refusal:
        await alice.Buy(tickets_pb2.BuyRequest(seat="A3"), timeout=2)
    hauberk_mesh.clock.advance(refusal.retry_after_s or 0)
    await alice.Buy(tickets_pb2.BuyRequest(seat="A3"), timeout=2)


async def test_an_operator_sees_sales_as_they_are_made(hauberk_mesh: LocalMesh, tickets: Tickets) -> None:
    sales = stub(hauberk_mesh, "operators/ann").WatchSales(tickets_pb2.WatchSalesRequest())
    alice = stub(hauberk_mesh, subject="alice", roles=["customer"])
    sold = await alice.Buy(tickets_pb2.BuyRequest(seat="A1"), timeout=2)
    assert await sales.read() == sold
