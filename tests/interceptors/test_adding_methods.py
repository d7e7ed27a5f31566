"""What keeps a server from starting: methods the guard cannot serve, or could serve only without a demand."""

import functools
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.policy import policies_of
from hauberk.protos.shop.orders.v1 import orders_pb2, orders_pb2_grpc
from tests.interceptors.stage import (
    SERVICE,
    Behaviour,
    Shape,
    Stage,
    call,
    echo,
    generated,
    info,
    method,
    policy,
)


def plain(request: Any, context: Any) -> bytes:
    return b"never"


def add(
    stage: Stage, behaviour: Behaviour, shape: Shape = Shape.UNARY_UNARY, said: Shape | None = None
) -> None:
    guard = stage.new_guard()
    guard.add(SERVICE, {"Echo": method(behaviour, shape)}, {"Echo": policy("Echo", said or shape, "*")})


def test_method_without_a_policy_is_named(stage: Stage) -> None:
    shape = Shape.UNARY_UNARY
    with pytest.raises(PolicyError, match=r"no policy: lab\.v1\.Lab\.Other"):
        stage.new_guard().add(
            SERVICE,
            {"Echo": method(echo(shape), shape), "Other": method(echo(shape), shape)},
            {"Echo": policy("Echo", shape, "*")},
        )


def test_method_served_twice_is_named(stage: Stage) -> None:
    guard, shape = stage.new_guard(), Shape.UNARY_UNARY
    guard.add(SERVICE, {"Echo": method(echo(shape), shape)}, {"Echo": policy("Echo", shape, "*")})
    with pytest.raises(PolicyError, match=r"served twice: lab\.v1\.Lab\.Echo"):
        guard.add(SERVICE, {"Echo": method(echo(shape), shape)}, {"Echo": policy("Echo", shape, "*")})


def test_plain_function_is_named(stage: Stage, shape: Shape) -> None:
    with pytest.raises(PolicyError, match=r"needs `async def`: /lab\.v1\.Lab/Echo \(plain\)"):
        add(stage, plain, shape)


def test_plain_generator_is_refused(stage: Stage) -> None:
    def generating(request: Any, context: Any) -> Any:
        yield b"never"

    with pytest.raises(PolicyError, match="needs `async def`"):
        add(stage, generating, Shape.UNARY_STREAM)


def test_generator_for_one_reply_is_refused(stage: Stage) -> None:
    with pytest.raises(PolicyError, match="its contract says one reply"):
        add(stage, echo(Shape.UNARY_STREAM), Shape.UNARY_UNARY)


@pytest.mark.parametrize("said", [Shape.UNARY_STREAM, Shape.STREAM_UNARY, Shape.STREAM_STREAM])
def test_method_of_another_shape_than_its_contract_is_refused(stage: Stage, said: Shape) -> None:
    with pytest.raises(PolicyError, match="not of the shape"):
        add(stage, echo(Shape.UNARY_UNARY), Shape.UNARY_UNARY, said)


class Echoing:
    async def __call__(self, request: bytes, context: Any) -> bytes:
        return request


class Servicer:
    async def echo(self, request: bytes, context: Any) -> bytes:
        return request


async def with_more(more: str, request: bytes, context: Any) -> bytes:
    return request


@pytest.mark.parametrize(
    "behaviour",
    [Echoing(), Servicer().echo, functools.partial(with_more, "x"), functools.partial(Echoing())],
    ids=["object", "bound method", "partial", "partial of an object"],
)
async def test_everything_that_is_a_coroutine_function_is_served(stage: Stage, behaviour: Behaviour) -> None:
    shape = Shape.UNARY_UNARY
    await stage.serve({"Echo": (shape, behaviour, policy("Echo", shape, "*"))})
    assert await call(stage.channel(), shape) == [b"hello"]


async def test_bound_generator_is_served(stage: Stage) -> None:
    class Streaming:
        async def many(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield request

    shape = Shape.UNARY_STREAM
    await stage.serve({"Echo": (shape, Streaming().many, policy("Echo", shape, "*"))})
    assert await call(stage.channel(), shape) == [b"hello"]


class SomeOrders(orders_pb2_grpc.OrdersServicer):
    """Implements one method of three, as gRPC allows."""

    async def GetOrder(self, request: orders_pb2.GetOrderRequest, context: Any) -> orders_pb2.Order:  # noqa: N802
        return orders_pb2.Order(order_id=request.order_id)


async def test_method_left_to_the_generated_class_answers_unimplemented(stage: Stage) -> None:
    service = orders_pb2.DESCRIPTOR.services_by_name["Orders"]
    methods = generated(orders_pb2_grpc.add_OrdersServicer_to_server, SomeOrders())  # type: ignore[abstract]
    guard = stage.new_guard()
    guard.add(service.full_name, methods, policies_of(service))
    await stage.start(guard)
    stub = orders_pb2_grpc.OrdersStub(stage.channel("gateway"))
    order = await stub.GetOrder(orders_pb2.GetOrderRequest(order_id="o-1"))
    assert order.order_id == "o-1"
    line = orders_pb2.OrderLine(sku="GOODS", quantity=1)
    order_request = orders_pb2.PlaceOrderRequest(idempotency_key="k", customer="c", lines=[line])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.PlaceOrder(order_request, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert info(caught.value).reason == "METHOD_NOT_IMPLEMENTED"
