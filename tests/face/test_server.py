"""What a server of the mesh takes, serves and how it ends."""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from hauberk.certs.credentials import pinned_channel_credentials
from hauberk.errors import ListenFailed
from hauberk.interceptors.demands import MessageBounds
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.policy import Policy
from hauberk.protos.shop.payments.v1 import payments_pb2_grpc
from tests.face.town import SERVICE, Town, echo, policy, refused

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Slow:
    """Methods that wait until they are let go."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.go = asyncio.Event()

    async def once(self, request: bytes, context: Any) -> bytes:
        self.entered.set()
        await self.go.wait()
        return b"done"

    async def stream(self, request: bytes, context: Any) -> None:
        self.entered.set()
        await context.write(b"begun")
        await self.go.wait()
        await context.write(b"done")

    def add_to(self, server: Any) -> None:
        server.add(
            SERVICE,
            {
                "Echo": grpc.unary_unary_rpc_method_handler(self.once),
                "Stream": grpc.unary_stream_rpc_method_handler(self.stream),
            },
            {"Echo": policy("Echo"), "Stream": policy("Stream", response_streaming=True)},
        )


async def test_the_address_has_the_real_port(town: Town) -> None:
    server = town.server()
    with pytest.raises(RuntimeError, match="has not started"):
        _ = server.address
    await server.start()
    host, port = server.address.split(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


async def test_the_largest_message_that_a_method_lets_in_bounds_the_server(town: Town) -> None:
    """A little more is refused by us, by name; far more by core, before it is held in memory."""
    server = town.server()
    small, large = (replace(policy("Echo"), message=MessageBounds(max_bytes=kib * 1024)) for kib in (1, 2048))
    server.add("lab.v1.Small", town.lab.handlers(), {"Echo": small})
    server.add("lab.v1.Large", town.lab.handlers(), {"Echo": large})
    await server.start()
    channel = town.channel(server.address)
    assert await _sent(channel, "Large", 2048 * 1024) == "taken"
    ours, cores = "RESOURCE_EXHAUSTED message of .*MESSAGE_TOO_LARGE", "RESOURCE_EXHAUSTED .*larger than max"
    assert re.match(ours, await _sent(channel, "Small", 2048 * 1024))
    assert re.match(ours, await _sent(channel, "Large", 2049 * 1024))
    assert re.match(cores, await _sent(channel, "Large", 2200 * 1024))


async def _sent(channel: grpc.aio.Channel, service: str, size: int) -> str:
    """How a message of that many bytes was answered."""
    call: Any = channel.unary_unary(f"/lab.v1.{service}/Echo")
    try:
        await call(b"x" * size, timeout=10)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {error.details()} {error.trailing_metadata()}"
    return "taken"


async def test_a_port_that_is_taken(town: Town) -> None:
    """grpc shares ports between servers by default; a second process could take our calls."""
    address = await town.serve()
    with pytest.raises(ListenFailed, match=rf"cannot listen on {address}: taken"):
        await town.serve(listen=address)


async def test_there_is_no_port_but_its_own(town: Town) -> None:
    server = town.server()
    with pytest.raises(ListenFailed, match="no plaintext here"):
        server.add_insecure_port("127.0.0.1:0")
    with pytest.raises(ListenFailed, match="listens by itself"):
        server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(b"", b"")]))


async def test_generated_code_adds_a_contract_with_its_policies(town: Town) -> None:
    server = town.server()
    payments_pb2_grpc.add_PaymentsServicer_to_server(Payments(), server)  # type: ignore[abstract]
    assert server.contracts == ("shop.payments.v1.Payments",)
    await server.start()
    channel = town.channel(server.address, town.credentials("stranger"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _call(channel, "/shop.payments.v1.Payments/Authorise")
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_generated_code_of_older_plugins_adds_generic_handlers_only(town: Town) -> None:
    server = town.server()
    generic = grpc.method_handlers_generic_handler(
        "shop.payments.v1.Payments", {"Authorise": grpc.unary_unary_rpc_method_handler(Slow().once)}
    )
    server.add_generic_rpc_handlers((generic,))
    assert server.contracts == ("shop.payments.v1.Payments",)


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda server: server.add(SERVICE, {"Echo": _handler()}, {}), f"/{SERVICE}/Echo has no policy"),
        (
            lambda server: server.add_registered_method_handlers("lab.v1.Unknown", {"Echo": _handler()}),
            "lab.v1.Unknown has no contract in this process",
        ),
        (lambda server: server.add_generic_rpc_handlers((Nameless(),)), "names no service"),
        (
            lambda server: [
                server.add(SERVICE, {"Echo": _handler()}, {"Echo": policy("Echo")}) for _ in "12"
            ],
            f"{SERVICE} is added twice, by different servicers",
        ),
        (
            lambda server: server.add_registered_method_handlers(
                "grpc.channelz.v1.Channelz", {"GetServers": _handler()}
            ),
            "no contract in this process|no policy",
        ),
    ],
    ids=["no policy", "no contract", "nameless", "twice", "others' contract"],
)
async def test_methods_that_cannot_be_guarded_are_not_added(
    town: Town, add: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(PolicyError, match=message):
        add(town.server())


async def test_nothing_is_added_to_a_running_server(town: Town) -> None:
    server = town.server()
    await server.start()
    with pytest.raises(RuntimeError, match="after the server had started"):
        server.add(SERVICE, town.lab.handlers(), {"Echo": policy("Echo")})


async def test_an_anonymous_server_takes_anonymous_methods_only(town: Town) -> None:
    server = town.server(anonymous=True)
    with pytest.raises(PolicyError, match="is not anonymous"):
        server.add(SERVICE, town.lab.handlers(), {"Echo": policy("Echo")})
    server.add(SERVICE, town.lab.handlers(), {"Echo": Policy(method=f"/{SERVICE}/Echo", anonymous=True)})
    await server.start()
    options = [("grpc.ssl_target_name_override", "server.mesh.test")]
    pinned = pinned_channel_credentials(town.authority.bundle)
    async with grpc.aio.secure_channel(server.address, pinned, options=options) as channel:
        assert await echo(channel) == b"hello"


async def test_draining_finishes_the_calls_in_flight(town: Town) -> None:
    slow, server = Slow(), town.server()
    slow.add_to(server)
    await server.start()
    channel = town.channel(server.address)
    call = asyncio.ensure_future(echo(channel))
    await slow.entered.wait()
    stopping = asyncio.ensure_future(server.stop(5))
    await asyncio.sleep(0.1)
    assert not stopping.done()
    slow.go.set()
    assert await call == b"done"
    await stopping


async def test_draining_ends_what_does_not_end_by_itself(town: Town) -> None:
    slow, server = Slow(), town.server()
    slow.add_to(server)
    await server.start()
    stream: Any = town.channel(server.address).unary_stream(f"/{SERVICE}/Stream")
    call = stream(b"", timeout=30)
    assert await call.read() == b"begun"
    began = time.monotonic()
    await server.stop(0.5)
    assert time.monotonic() - began < 3
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_draining_goes_on_taking_calls_until_callers_are_told(town: Town) -> None:
    told = asyncio.Event()
    steps: list[str] = []

    class Announced:
        async def withdraw(self) -> bool:
            steps.append("withdraw")
            return await told.wait()

        async def end(self) -> None:
            steps.append("end")

    async def announce(address: str, contracts: Any) -> Announced:
        steps.append(f"announce {contracts}")
        return Announced()

    server = town.server(announce=announce)
    server.add(SERVICE, town.lab.handlers(), {"Echo": policy("Echo")})
    await server.start()
    channel = town.channel(server.address)
    stopping = asyncio.ensure_future(server.stop(5))
    await asyncio.sleep(0.1)
    assert await echo(channel) == b"hello"
    told.set()
    await stopping
    assert steps == [f"announce {(SERVICE,)}", "withdraw", "end"]
    assert (await refused(channel)).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_server_that_cannot_be_announced_listens_no_more(town: Town) -> None:
    async def announce(address: str, contracts: Any) -> Any:
        raise LookupError("refused")

    server = town.server(announce=announce)
    server.add(SERVICE, town.lab.handlers(), {"Echo": policy("Echo")})
    with pytest.raises(LookupError):
        await server.start()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*server.address.split(":"))


async def test_stopping_twice_waits_for_the_first(town: Town) -> None:
    server = town.server()
    await server.start()
    await asyncio.gather(server.stop(1), server.stop(1))


async def test_stopping_once_more_ends_what_a_cancelled_stop_left(town: Town) -> None:
    class Announced:
        ended = False

        async def withdraw(self) -> bool:
            withdrawing.set()
            return await asyncio.Event().wait()

        async def end(self) -> None:
            self.ended = True

    async def announce(address: str, contracts: Sequence[str]) -> Announced:
        return announced

    announced, withdrawing = Announced(), asyncio.Event()
    server = town.server(announce=announce)
    server.add(SERVICE, town.lab.handlers(), {"Echo": policy("Echo")})
    await server.start()
    stopping = asyncio.create_task(server.stop(30))
    await withdrawing.wait()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await server.stop(0)
    assert announced.ended
    error = await refused(town.channel(server.address), within=5)
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_stopped_server_starts_no_more(town: Town) -> None:
    """Nobody would stop it again."""
    server = town.server()
    await server.stop()
    with pytest.raises(RuntimeError, match="has stopped"):
        await server.start()


async def test_a_server_whose_port_was_taken_may_start_later(town: Town) -> None:
    first = town.server()
    await first.start()
    second = town.server(listen=first.address)
    with pytest.raises(ListenFailed):
        await second.start()
    await first.stop(0)
    await second.start()
    assert second.address == first.address


async def test_serve_ends_when_told(town: Town) -> None:
    stopping = asyncio.Event()
    server = town.server(stopping=stopping)
    serving = asyncio.ensure_future(server.serve())
    await asyncio.sleep(0.1)
    stopping.set()
    async with asyncio.timeout(5):
        await serving


class Payments(payments_pb2_grpc.PaymentsServicer):
    """Leaves every method out."""


class Nameless(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return None


def _handler() -> Any:
    return grpc.unary_unary_rpc_method_handler(Slow().once)


async def _call(channel: grpc.aio.Channel, method: str, request: bytes = b"") -> bytes:
    call: Any = channel.unary_unary(method)
    reply: bytes = await call(request, timeout=5)
    return reply
