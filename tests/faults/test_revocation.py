"""`hauberk revoke` is in force everywhere within a second, on living connections, for that name alone."""

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from hauberk.certs import keys
from hauberk.certs.identity import SpiffeId
from hauberk.cli.dial import dialled, error_infos
from hauberk.protos.hauberk.control.v1 import enrolment_pb2, enrolment_pb2_grpc
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.protos.shop.orders.v1 import orders_pb2, orders_pb2_grpc
from hauberk.protos.shop.payments.v1 import payments_pb2, payments_pb2_grpc
from hauberk.services.shopper.load import Load
from tests.faults.bystanders import NOBODY, Bystanders, absent, eventually_answers
from tests.mesh.fleet import Fleet, fleet
from tests.mesh.running import COMMAND, clean_environment, shop

REVOKED = (grpc.StatusCode.UNAUTHENTICATED, "REVOKED")
PROBE_S = 0.01
IN_FORCE_S = 1.0


@dataclass(slots=True)
class Ending:
    """When something of the revoked caller's ended, monotonic, and with what."""

    what: str
    at: float
    told: tuple[grpc.StatusCode, str]


async def hauberk(folder: Path, *arguments: str) -> tuple[int, str]:
    """One command as a process of its own: exit code, and all that it said."""
    command = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        cwd=folder,
        env=clean_environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await command.communicate()
    assert command.returncode is not None
    return command.returncode, said.decode()


@pytest.mark.alone
@pytest.mark.soak
@pytest.mark.timeout(150)
async def test_a_revoked_caller_is_refused_everywhere_within_a_second(tmp_path: Path, soaking: bool) -> None:
    before_s, after_s = (5.0, 10.0) if soaking else (2.0, 4.0)
    async with fleet(tmp_path, shop(replicas=2)) as mesh, AsyncExitStack() as stack:
        gateway = await mesh.member("gateway", ends=True)
        await Load(gateway.channel, asyncio.Event(), rate=20).run(1)
        stolen = await Stolen.of(mesh, gateway.credentials.value, stack)
        others = await Bystanders.of(mesh)
        async with asyncio.TaskGroup() as group:
            probes = [group.create_task(probe) for probe in stolen.probes()]
            streams = [group.create_task(stream) for stream in stolen.streams()]
            loads = [group.create_task(load) for load in others.loads()]
            await asyncio.sleep(before_s)
            assert not any(task.done() for task in (*probes, *streams)), "all is served until then"
            began = time.monotonic()
            code, said = await hauberk(tmp_path, "revoke", "gateway", "--reason", "test")
            returned = time.monotonic()
            assert code == 0, said
            async with asyncio.timeout(10):
                ended = await asyncio.gather(*probes, *streams)
            await asyncio.sleep(after_s)
            others.over.set()
        tallies = [load.result() for load in loads]
        for ending in ended:
            since = (
                f"{1000 * (ending.at - began):5.0f} ms after its start, {1000 * (ending.at - returned):+5.0f}"
            )
            print(f"{ending.what:32} {since} ms from its end", file=sys.stderr)
        assert {ending.told for ending in ended} == {REVOKED}, ended
        # In the company of other tests a command takes a second to start at all.
        asked = began if soaking else returned
        assert max(ending.at for ending in ended) - asked < IN_FORCE_S, "of the command"
        assert len(ended) == 7 + 9
        await stolen.cannot_come_back()
        for tally in tallies:
            assert not tally.failed, tally.failed[:5]
            assert min(tally.calls.values()) > 5 * after_s, tally.calls
        assert sorted(mesh.running) == sorted(mesh.names), "nobody else ended"


class Stolen:
    """The caller's credentials in somebody's hands: connections that its own process does not end."""

    def __init__(self, channels: dict[str, grpc.aio.Channel]) -> None:
        self._channels = channels

    @classmethod
    async def of(cls, mesh: Fleet, credentials: Any, stack: AsyncExitStack) -> "Stolen":
        """With a living connection to each process of the mesh."""
        channels = {}
        for row in await mesh.local.rows():
            server = SpiffeId.parse(row.identity)
            channels[row.name] = await stack.enter_async_context(dialled(row.address, server, credentials))
            await channels[row.name].channel_ready()
        return cls(channels)

    def probes(self) -> list[Coroutine[Any, Any, Ending]]:
        """One call after the other to each server, until one is refused."""
        calls: dict[str, Callable[[grpc.aio.Channel], Awaitable[object]]] = {
            "catalog": lambda channel: catalog_pb2_grpc.CatalogStub(channel).GetProduct(
                catalog_pb2.GetProductRequest(sku="NONE"), timeout=5
            ),
            "orders": lambda channel: orders_pb2_grpc.OrdersStub(channel).GetOrder(
                orders_pb2.GetOrderRequest(order_id=NOBODY), timeout=5
            ),
            "payments": lambda channel: payments_pb2_grpc.PaymentsStub(channel).GetPayment(
                payments_pb2.GetPaymentRequest(payment_id=NOBODY), timeout=5
            ),
            "control": _health,
        }
        return [
            _until_refused(f"next call to {name}", channel, calls[name.partition("-")[0]])
            for name, channel in self._channels.items()
        ]

    def streams(self) -> list[Coroutine[Any, Any, Ending]]:
        """Open calls of every shape that streams; those of orders end by themselves, its health does not."""
        found: list[Coroutine[Any, Any, Ending]] = []
        for name, channel in self._channels.items():
            match name.partition("-")[0]:
                case "catalog":
                    catalog = catalog_pb2_grpc.CatalogStub(channel)
                    watch = catalog.WatchProducts(catalog_pb2.WatchProductsRequest())
                    found.append(_until_ended(f"WatchProducts of {name}", watch))
                    found.append(
                        _until_ended(f"ImportProducts of {name}", catalog.ImportProducts(_endless()))
                    )
                case "payments":
                    payments = payments_pb2_grpc.PaymentsStub(channel)
                    found.append(_until_ended(f"Reconcile of {name}", payments.Reconcile(_endless())))
                case "orders":
                    health: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
                    found.append(_until_ended(f"Health of {name}", health(b"")))
                case "control":
                    trust = enrolment_pb2_grpc.IdentityStub(channel).WatchTrust(
                        enrolment_pb2.WatchTrustRequest()
                    )
                    found.append(_until_ended("WatchTrust of control", trust))
        return found

    async def cannot_come_back(self) -> None:
        """No renewal, for a request that is in order."""
        identity = enrolment_pb2_grpc.IdentityStub(self._channels["control"])
        request = enrolment_pb2.RenewRequest(certificate_request=keys.csr(keys.generate()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await identity.Renew(request, timeout=5)
        assert _told(caught.value) == REVOKED


async def _health(channel: grpc.aio.Channel) -> object:
    check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
    return await check(b"", timeout=5)


async def _until_refused(
    what: str, channel: grpc.aio.Channel, call: Callable[[grpc.aio.Channel], Awaitable[object]]
) -> Ending:
    while True:
        try:
            await absent(call(channel))
        except grpc.aio.AioRpcError as error:
            return Ending(what, time.monotonic(), _told(error))
        await asyncio.sleep(PROBE_S)


async def _until_ended(what: str, call: Any) -> Ending:
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        await call
    except grpc.aio.AioRpcError as error:
        return Ending(what, time.monotonic(), _told(error))
    raise AssertionError(f"{what} ended well")


async def _endless() -> AsyncIterator[Any]:
    """Requests that do not come."""
    await asyncio.sleep(600)
    yield None


def _told(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
    return error.code(), "".join(info.reason for info in error_infos(error))


@pytest.mark.alone
@pytest.mark.timeout(120)
async def test_a_revoked_server_ends_what_it_serves_and_comes_back_when_reinstated(tmp_path: Path) -> None:
    """Reinstated too early, certificates that were refused would be let in again."""
    async with fleet(tmp_path, shop(svid_lifetime="10s")) as mesh:
        gateway = await mesh.member("gateway")
        payments = payments_pb2_grpc.PaymentsStub(gateway.channel)

        def ask() -> Awaitable[None]:
            return absent(payments.GetPayment(payments_pb2.GetPaymentRequest(payment_id=NOBODY), timeout=2))

        await eventually_answers(ask)
        stream = asyncio.create_task(_until_ended("Reconcile", payments.Reconcile(_endless())))
        await asyncio.sleep(0.3)
        began = time.monotonic()
        code, said = await hauberk(tmp_path, "revoke", "payments")
        returned = time.monotonic()
        assert code == 0, said
        ending = await asyncio.wait_for(stream, 10)
        exit_code = await mesh.ended("payments-1", within=10)
        left = time.monotonic()
        print(
            f"stream ended {ending.at - began:.2f} s, process {left - began:.2f} s after the command's start",
            file=sys.stderr,
        )
        assert ending.told[0] is grpc.StatusCode.UNAVAILABLE
        assert ending.at - began < IN_FORCE_S
        assert left - returned < 3
        assert exit_code == 1
        assert mesh.said("payments-1", "was revoked")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask()
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED)

        code, said = await hauberk(tmp_path, "reinstate", "payments")
        assert code == 1
        (until,) = re.findall(r"reinstate it after (20\S+Z)", said)
        wait = datetime.fromisoformat(until) - datetime.now(UTC)
        assert 0 < wait.total_seconds() <= 10
        await asyncio.sleep(wait.total_seconds() + 0.1)
        code, said = await hauberk(tmp_path, "reinstate", "payments", "--json")
        assert (code, json.loads(said)) == (0, {"reinstated": "spiffe://shop.test/payments"})
        await mesh.start("payments-1")
        await mesh.serving("payments-1")
        await eventually_answers(ask)
