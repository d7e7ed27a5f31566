"""Messages that hold more than their method lets in are refused before anything is built of them."""

from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory, wrappers_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import ListValue
from grpc.aio import AioRpcError
from hypothesis import given
from hypothesis import strategies as st

from hauberk.interceptors.demands import MessageBounds
from hauberk.interceptors.errors import MessageTooLarge, MessageUnreadable, Refused, TooManyItems
from hauberk.interceptors.message import message_check
from hauberk.protos.shop.catalog.v1 import catalog_pb2
from tests.interceptors.stage import SERVICE, Shape, Stage, call, info, policy

RESERVE: Any = catalog_pb2.ReserveStockRequest.DESCRIPTOR
PATH = "/lab.v1.Lab/Try"


def _lists() -> type[Message]:
    """A type with a list of each kind, a group, a map and parts of its own type."""
    file = FileDescriptorProto(name="lab/v1/lists.proto", package="lab.v1", syntax="proto2")
    lists = file.message_type.add(name="Lists")
    numbers = {"varints": 5, "fixed": 7, "doubles": 1, "strings": 9, "octets": 12}
    for number, (name, kind) in enumerate(numbers.items(), 1):
        lists.field.add(name=name, number=number, label=3, type=kind)
    lists.field[0].options.packed = True
    lists.field.add(name="parts", number=6, label=3, type=11, type_name=".lab.v1.Lists")
    lists.field.add(name="part", number=7, label=1, type=11, type_name=".lab.v1.Lists")
    lists.field.add(name="group", number=8, label=3, type=10, type_name=".lab.v1.Lists")
    lists.field.add(name="single", number=9, label=1, type=5)
    lists.field.add(name="word", number=10, label=1, type=9)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("lab.v1.Lists"))


Lists: Any = _lists()


def items(message: Any) -> int:
    """Sub-messages and elements of lists, as they stand in a parsed message."""
    count = 0
    for known, value in message.ListFields():
        if known.message_type is None:
            count += len(value) if known.is_repeated else 0
        else:
            for part in value if known.is_repeated else [value]:
                count += 1 + items(part)
    return count


def holds(raw: bytes, most: int, kind: Any = Lists) -> bool:
    """Whether a message is let in that may have so many items."""
    try:
        message_check(MessageBounds(max_items=most), PATH, kind.DESCRIPTOR)(raw)
    except TooManyItems:
        return False
    return True


def made(depth: int = 3) -> st.SearchStrategy[Any]:
    own = st.fixed_dictionaries(
        {},
        optional={
            "varints": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
            "fixed": st.lists(st.integers(0, 2**32 - 1), max_size=3),
            "doubles": st.lists(st.floats(allow_nan=False), max_size=3),
            "strings": st.lists(st.text(max_size=5), max_size=3),
            "octets": st.lists(st.binary(max_size=200), max_size=2),
            "single": st.integers(0, 1000),
            "word": st.text(max_size=5),
            **(
                {
                    "parts": st.lists(st.deferred(lambda: made(depth - 1)), max_size=3),
                    "part": st.deferred(lambda: made(depth - 1)),
                    "group": st.lists(st.deferred(lambda: made(depth - 1)), max_size=2),
                }
                if depth
                else {}
            ),
        },
    )
    return own.map(lambda fields: Lists(**fields))


@given(made())
def test_items_are_counted_as_protobuf_would_build_them(message: Any) -> None:
    raw = message.SerializeToString()
    count = items(message)
    assert holds(raw, max(count, 1))
    if count > 1:
        assert not holds(raw, count - 1)


@given(
    made(),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.integers(1, 9),
)
def test_whatever_comes_nothing_larger_is_built(
    message: Any, changes: list[tuple[float, int]], most: int
) -> None:
    raw = bytearray(message.SerializeToString())
    for place, octet in changes:
        if raw:
            raw[int(place * len(raw))] = octet
    try:
        message_check(MessageBounds(max_items=most), PATH, Lists.DESCRIPTOR)(bytes(raw))
    except Refused:
        return
    try:
        built = Lists.FromString(bytes(raw))
    except DecodeError:
        return
    assert items(built) <= most


@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_are_refused_or_left_to_the_parser(raw: bytes) -> None:
    try:
        message_check(MessageBounds(max_items=1), PATH, Lists.DESCRIPTOR)(raw)
    except (TooManyItems, MessageUnreadable):
        return


def test_empty_parts_are_refused_at_the_bound_and_not_at_the_end() -> None:
    check = message_check(MessageBounds(max_bytes=2**22), PATH, RESERVE)
    with pytest.raises(TooManyItems) as caught:
        check(b"\x12\x00" * 20_000 + b"no field")
    assert caught.value.metadata == {"max_items": "10000"}


@pytest.mark.parametrize(
    "again",
    [b"\x48\x01", b"\x52\x00", b"\xa0\x06\x01", b"\xa2\x06\x00"],
    ids=["number", "word", "unknown", "blob"],
)
def test_single_field_said_again_and_again_is_counted(again: bytes) -> None:
    """Or a long message of them would be walked over to its end for nothing."""
    assert holds(again * 3, 3)
    assert not holds(again * 100, 50)


def test_message_nested_deeper_than_protobuf_reads_is_refused() -> None:
    raw = b""
    for _ in range(150):
        raw = b"\x3a" + bytes([len(raw)] if len(raw) < 128 else [len(raw) & 127 | 128, len(raw) >> 7]) + raw
    with pytest.raises(MessageUnreadable):
        holds(raw, 100)
    with pytest.raises(DecodeError):
        Lists.FromString(raw)


def test_values_within_values_are_counted() -> None:
    deep = ListValue()
    for number in range(30):
        deep.values.add().number_value = number
        deep.values.add().list_value.extend([1, 2, 3])
    assert items(deep) == 180
    assert holds(deep.SerializeToString(), 180, ListValue)
    assert not holds(deep.SerializeToString(), 179, ListValue)


def test_what_nothing_describes_is_bounded_in_bytes_alone() -> None:
    check = message_check(MessageBounds(max_bytes=1000, max_items=1), PATH, None)
    check(b"\x0a\x00" * 500)
    with pytest.raises(MessageTooLarge):
        check(b"x" * 1001)


async def serve(stage: Stage, shape: Shape, bounds: MessageBounds) -> list[Any]:
    """A method of this shape that takes lists of values; what it was given."""
    given: list[Any] = []

    async def one(request: Any, context: Any) -> wrappers_pb2.StringValue:
        given.extend([each async for each in request] if shape.requests_stream else [request])
        return wrappers_pb2.StringValue(value="read")

    async def many(request: Any, context: Any) -> Any:
        yield await one(request, context)

    make = getattr(grpc, f"{shape.name.lower()}_rpc_method_handler")
    write = wrappers_pb2.StringValue.SerializeToString
    method = make(many if shape.replies_stream else one, ListValue.FromString, write)
    guard = stage.new_guard()
    guard.add(SERVICE, {"Echo": method}, {"Echo": replace(policy("Echo", shape, "gateway"), message=bounds)})
    await stage.start(guard)
    return given


@pytest.mark.parametrize(
    ("request_", "reason", "bound"),
    [
        (b"\x0a\x03\x1a\x01x" * 21, "MESSAGE_TOO_LARGE", {"max_bytes": "100"}),
        (b"\x0a\x00" * 11, "TOO_MANY_ITEMS", {"max_items": "10"}),
    ],
    ids=["bytes", "items"],
)
async def test_message_past_a_bound_is_refused_by_name(
    stage: Stage, shape: Shape, request_: bytes, reason: str, bound: dict[str, str]
) -> None:
    given = await serve(stage, shape, MessageBounds(max_bytes=100, max_items=10))
    assert len(await call(stage.channel(), shape, requests=[b"\x0a\x00" * 10])) == 1
    assert len(given) == 1
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(), shape, requests=[request_])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    told = info(caught.value)
    assert told.reason == reason
    assert bound.items() <= dict(told.metadata).items()
    assert len(given) == 1


@pytest.mark.parametrize(
    "shape", [Shape.STREAM_UNARY, Shape.STREAM_STREAM], ids=lambda shape: shape.name.lower()
)
async def test_each_message_of_a_stream_is_bounded(stage: Stage, shape: Shape) -> None:
    given = await serve(stage, shape, MessageBounds(max_items=10))
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(), shape, requests=[b"", b"\x0a\x00" * 10, b"\x0a\x00" * 11])
    assert info(caught.value).reason == "TOO_MANY_ITEMS"
    assert not given
