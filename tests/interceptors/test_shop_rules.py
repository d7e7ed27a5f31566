"""Every rule of the shop's contracts, broken alone, in each shape of call: generated from the descriptors."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc.aio import AioRpcError

from hauberk.interceptors.demands import MessageBounds
from hauberk.interceptors.policy import policies_of
from hauberk.protos.shop.catalog.v1 import catalog_pb2
from hauberk.protos.shop.orders.v1 import orders_pb2
from hauberk.protos.shop.payments.v1 import payments_pb2
from tests.interceptors.broken import EXPRESSIONS, Broken, broken, valid
from tests.interceptors.ruled import violations
from tests.interceptors.stage import SERVICE, Shape, Stage, call, info, policy

CONTRACTS: list[Any] = [
    contract
    for file in (catalog_pb2, orders_pb2, payments_pb2)
    for contract in file.DESCRIPTOR.services_by_name.values()
]
BOUNDS: dict[Any, MessageBounds] = {
    contract.methods_by_name[name].input_type: said.message
    for contract in CONTRACTS
    for name, said in policies_of(contract).items()
}
"""The kinds of requests that the shop takes, and how large its contracts let them be."""


def name_of(described: Any) -> str:
    return str(described.full_name).replace(".", "_")


async def serve(stage: Stage, shape: Shape, came: list[Any]) -> None:
    """A method of this shape for each kind of request that the shop takes."""

    async def one(request: Any, context: Any) -> bytes:
        came.extend([each async for each in request] if shape.requests_stream else [request])
        return b""

    async def many(request: Any, context: Any) -> Any:
        yield await one(request, context)

    make = getattr(grpc, f"{shape.name.lower()}_rpc_method_handler")
    behaviour = many if shape.replies_stream else one
    guard = stage.new_guard()
    guard.add(
        SERVICE,
        {name_of(each): make(behaviour, GetMessageClass(each).FromString) for each in BOUNDS},
        {name_of(each): replace(policy(name_of(each), shape, "*"), message=BOUNDS[each]) for each in BOUNDS},
    )
    await stage.start(guard)


async def test_each_rule_of_the_shop_is_enforced_and_its_field_named(stage: Stage, shape: Shape) -> None:
    came: list[Any] = []
    await serve(stage, shape, came)
    channel = stage.channel()
    for described in BOUNDS:
        good = valid(described).SerializeToString()
        for each in broken(described):
            bad = each.message.SerializeToString()
            requests = [good, bad, good] if shape.requests_stream else [bad]
            with pytest.raises(AioRpcError) as caught:
                await call(channel, shape, name_of(described), requests=requests)
            told = (described.full_name, each.path, each.rule, caught.value.details())
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, told
            assert info(caught.value).reason == "MESSAGE_INVALID", told
            fields = violations(caught.value)
            assert each.path in fields, told
            # A number out of its range may also break what an outer message says of it.
            assert all(each.path.startswith(field) for field in fields), told
    assert came == []


async def test_message_that_keeps_the_rules_passes(stage: Stage, shape: Shape) -> None:
    came: list[Any] = []
    await serve(stage, shape, came)
    for described in BOUNDS:
        sent = [valid(described)] * (2 if shape.requests_stream else 1)
        await call(stage.channel(), shape, name_of(described), requests=[m.SerializeToString() for m in sent])
        assert came == sent
        came.clear()


def cases() -> Iterator[Broken]:
    for described in BOUNDS:
        yield from broken(described)


def test_each_kind_of_rule_in_the_shop_is_broken() -> None:
    kinds = {each.rule for each in cases()}
    assert kinds == {
        "required",
        "string.pattern",
        "string.min_len",
        "string.max_len",
        "int32.gte",
        "int32.lte",
        "int64.gte",
        "int64.lte",
        "repeated.min_items",
        "repeated.max_items",
        "items.string.pattern",
        *EXPRESSIONS,
    }
    assert len(list(cases())) > 100


def test_only_a_request_that_holds_nothing_has_no_rules() -> None:
    without = {each.name for each in BOUNDS if not list(broken(each))}
    assert without == {"ListProductsRequest"}
