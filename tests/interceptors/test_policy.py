"""Policies as contracts declare them; what cannot be enforced does not start."""

import contextlib
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet, MethodOptions
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.demands import DeadlineRule, MessageBounds
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.policy import (
    CallerPattern,
    Idempotency,
    Policy,
    callers,
    policies_of,
    policies_of_proto,
)
from hauberk.protos.hauberk.control.v1 import admin_pb2, enrolment_pb2, registry_pb2
from hauberk.protos.hauberk.policy.v1 import policy_pb2
from hauberk.protos.shop.catalog.v1 import catalog_pb2
from hauberk.protos.shop.orders.v1 import orders_pb2
from hauberk.protos.shop.payments.v1 import payments_pb2
from tests.policy_cases import CASES, NO_PATTERNS, TRUST_DOMAIN


def contract(
    demands: policy_pb2.Policy | bytes | None = None,
    defaults: policy_pb2.Policy | bytes | None = None,
    **method: Any,
) -> FileDescriptorProto:
    """lab.v1.Lab with the one method Try, these options on it and on the service; bytes are a Policy's."""
    file = FileDescriptorProto(name="lab/v1/lab.proto", package="lab.v1", syntax="proto3")
    file.message_type.add(name="Thing")
    service = file.service.add(name="Lab")
    service.method.add(name="Try", input_type=".lab.v1.Thing", output_type=".lab.v1.Thing", **method)
    _put(service.method[0].options, policy_pb2.policy, demands)
    _put(service.options, policy_pb2.defaults, defaults)
    return file


def _put(options: Any, extension: Any, demands: policy_pb2.Policy | bytes | None) -> None:
    if isinstance(demands, bytes):
        demands = policy_pb2.Policy.FromString(demands)
    if demands is not None:
        options.Extensions[extension].CopyFrom(demands)


def read(file: FileDescriptorProto) -> Policy:
    """The policy of Try, after the contract went over a wire."""
    again = FileDescriptorSet.FromString(FileDescriptorSet(file=[file]).SerializeToString())
    return policies_of_proto(again)["lab.v1.Lab"]["Try"]


def saying(**demands: Any) -> policy_pb2.Policy:
    return policy_pb2.Policy(**demands)


def lasting(**rule: Any) -> policy_pb2.Policy:
    seconds = {key: Duration(seconds=value) for key, value in rule.items() if key in ("default", "max")}
    return saying(
        callers=["*"], deadline=policy_pb2.Deadline(required=rule.get("required", False), **seconds)
    )


@pytest.mark.parametrize(("pattern", "caller", "admitted"), CASES)
def test_pattern_means_whom_the_table_says(pattern: str, caller: str, admitted: bool) -> None:
    parsed = CallerPattern.parse(pattern)
    assert parsed.matches(SpiffeId.parse(caller), TRUST_DOMAIN) is admitted
    assert str(parsed) == pattern


@pytest.mark.parametrize("text", NO_PATTERNS)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match="not a caller"):
        CallerPattern.parse(text)


@given(st.text())
def test_pattern_grammar_never_crashes_and_round_trips(text: str) -> None:
    try:
        parsed = CallerPattern.parse(text)
    except PolicyError:
        return
    assert str(parsed) == text
    assert CallerPattern.parse(str(parsed)) == parsed


_segment = st.from_regex(r"[a-z0-9_-][a-z0-9._-]{0,8}", fullmatch=True)
_path = st.lists(_segment, min_size=1, max_size=4).map("/".join)


@given(stem=_path, rest=_path, other=_path)
def test_star_means_everything_below_and_nothing_beside(stem: str, rest: str, other: str) -> None:
    below = CallerPattern.parse(f"{stem}/*")
    assert below.matches(SpiffeId.of("mesh.test", f"{stem}/{rest}"), "mesh.test")
    assert not below.matches(SpiffeId.of("mesh.test", stem), "mesh.test")
    named = SpiffeId.of("mesh.test", other)
    assert below.matches(named, "mesh.test") is named.path.startswith(f"/{stem}/")


def test_methods_policy_is_read_whole() -> None:
    file = contract(
        saying(
            callers=["gateway", "batch/*"],
            deadline=policy_pb2.Deadline(
                max=Duration(seconds=3), default=Duration(seconds=1, nanos=500_000_000)
            ),
        ),
        client_streaming=True,
    )
    file.service[0].method[0].options.idempotency_level = MethodOptions.IDEMPOTENT
    assert read(file) == Policy(
        method="/lab.v1.Lab/Try",
        request_streaming=True,
        response_streaming=False,
        callers=callers("gateway", "batch/*"),
        deadline=DeadlineRule(required=False, default_s=1.5, max_s=3.0),
        idempotency=Idempotency.IDEMPOTENT,
        origin="method",
    )


def test_methods_policy_replaces_the_services_whole() -> None:
    """Nothing is merged: the deadline of the defaults is gone."""
    said = read(contract(saying(callers=["orders"]), lasting(required=True)))
    assert said.callers == callers("orders")
    assert said.deadline is None
    assert said.origin == "method"


def test_method_without_a_policy_has_the_services() -> None:
    said = read(contract(None, saying(callers=["orders"])))
    assert (said.callers, said.origin) == (callers("orders"), "service")


def test_policy_that_says_nothing_admits_nobody() -> None:
    said = read(contract(saying()))
    assert said.callers == ()
    assert not said.anonymous
    assert not said.admits(SpiffeId.of("mesh.test", "gateway"), "mesh.test")


def test_method_with_neither_is_named() -> None:
    with pytest.raises(PolicyError, match=r"no policy: lab\.v1\.Lab\.Try; write option"):
        read(contract())


def test_anonymous_excludes_callers() -> None:
    assert read(contract(saying(anonymous=True))).anonymous
    with pytest.raises(PolicyError, match=r"lab\.v1\.Lab\.Try.*anonymous excludes callers"):
        read(contract(saying(anonymous=True, callers=["gateway"])))


def test_pattern_that_is_none_is_named_with_its_method() -> None:
    with pytest.raises(PolicyError, match=r"lab\.v1\.Lab\.Try.*not a caller: 'a\*'"):
        read(contract(saying(callers=["gateway", "a*"])))


def varint_field(number: int) -> bytes:
    """A varint field of value 1, as a later version of the contract would have it; numbers to 2047."""
    tag = number << 3
    return bytes([tag, 1] if tag < 0x80 else [tag & 0x7F | 0x80, tag >> 7, 1])


@pytest.mark.parametrize("origin", ["method", "service"])
@pytest.mark.parametrize(
    ("demands", "number"),
    [
        (saying(callers=["*"]).SerializeToString() + varint_field(9), 9),
        (saying(callers=["*"]).SerializeToString() + varint_field(99), 99),
        (b"\x0a\x01*" + b"\x4a\x00", 9),  # a sub-message
        (b"\x0a\x01*" + b"\x1a\x02" + varint_field(4), 4),  # inside deadline
        (b"\x0a\x01*" + b"\x1a\x04\x12\x02" + varint_field(7), 7),  # inside deadline.max
        (b"\x0a\x01*" + b"\x42\x02" + varint_field(3), 3),  # inside message
    ],
    ids=["next", "far", "message", "in deadline", "in duration", "in message bounds"],
)
def test_demand_this_build_does_not_know_is_named(demands: bytes, number: int, origin: str) -> None:
    file = contract(demands) if origin == "method" else contract(None, demands)
    with pytest.raises(PolicyError, match=rf"lab\.v1\.Lab\.Try has a field .* not know: number {number}$"):
        read(file)


def test_unknown_demand_is_found_in_a_descriptor_too() -> None:
    """The way a server reads its own contract, from a pool."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(contract(b"\x0a\x01*" + varint_field(9)))
    service = pool.FindServiceByName("lab.v1.Lab")
    with pytest.raises(PolicyError, match="number 9"):
        policies_of(service)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"max": 0}, "max is not a positive duration"),
        ({"max": -1}, "max is not a positive duration"),
        ({"max": 2**62}, "max is not a positive duration"),
        ({"default": 0}, "default is not a positive duration"),
        ({"default": 5, "max": 3}, "default 5 s is longer than deadline.max 3 s"),
        ({"default": 1, "required": True}, "required excludes"),
    ],
)
def test_deadline_that_cannot_be_meant_is_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        read(contract(lasting(**rule)))


def test_message_bounds_are_read_and_each_has_a_default() -> None:
    assert read(contract(saying())).message == MessageBounds(max_bytes=262_144, max_items=10_000)
    said = policy_pb2.MessageBounds(max_bytes=65_536, max_items=7)
    assert read(contract(saying(message=said))).message == MessageBounds(max_bytes=65_536, max_items=7)
    one = policy_pb2.MessageBounds(max_items=7)
    assert read(contract(saying(message=one))).message == MessageBounds(max_items=7)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"max_bytes": 0}, "max_bytes is not 1 to 1073741824: 0"),
        ({"max_bytes": 2**30 + 1}, "max_bytes is not 1 to"),
        ({"max_items": 0}, "max_items is not 1 to 10000000: 0"),
        ({"max_items": 2**32 - 1}, "max_items is not 1 to"),
    ],
)
def test_message_bounds_that_cannot_be_meant_are_refused(bounds: dict[str, int], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        read(contract(saying(message=policy_pb2.MessageBounds(**bounds))))


def test_nanoseconds_out_of_range_are_refused() -> None:
    demands = saying(callers=["*"], deadline=policy_pb2.Deadline(max=Duration(seconds=5, nanos=-1)))
    with pytest.raises(PolicyError, match="not a positive duration"):
        read(contract(demands))


def test_service_described_twice_is_refused() -> None:
    file = contract(saying(callers=["*"]))
    with pytest.raises(PolicyError, match=r"described twice: lab\.v1\.Lab"):
        policies_of_proto(FileDescriptorSet(file=[file, file]))


def test_method_described_twice_is_refused() -> None:
    file = contract(saying(callers=["*"]))
    file.service[0].method.add().CopyFrom(file.service[0].method[0])
    with pytest.raises(PolicyError, match=r"described twice: lab\.v1\.Lab\.Try"):
        read(file)


def test_contract_without_a_package_is_read() -> None:
    file = contract(saying(callers=["*"]))
    file.package = ""
    assert policies_of_proto(FileDescriptorSet(file=[file]))["Lab"]["Try"].method == "/Lab/Try"


def test_reading_an_uploaded_contract_joins_no_pool() -> None:
    read(contract(saying(callers=["*"])))
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindServiceByName("lab.v1.Lab")


@pytest.mark.parametrize(
    "wire", [b"\xc0\xe1\x18\x01", b"\xc5\xe1\x18\x00\x00\x00\x00"], ids=["varint", "fixed32"]
)
def test_policy_that_is_no_message_does_not_fall_back_to_the_services(wire: bytes) -> None:
    """Field 50712 of another wire type: protobuf keeps it as unknown, as if nothing had been said."""
    file = contract(None, saying(callers=["*"]))
    file.service[0].method[0].options.MergeFromString(wire)
    with pytest.raises(PolicyError, match=r"lab\.v1\.Lab\.Try cannot be read"):
        read(file)


@given(st.binary(max_size=200))
def test_junk_for_demands_never_crashes(junk: bytes) -> None:
    try:
        demands = policy_pb2.Policy.FromString(junk)
    except DecodeError:
        return
    with contextlib.suppress(PolicyError):
        assert read(contract(demands)).method == "/lab.v1.Lab/Try"


@pytest.mark.parametrize(
    "contracts",
    [catalog_pb2, orders_pb2, payments_pb2, admin_pb2, enrolment_pb2, registry_pb2],
    ids=lambda module: module.__name__.rpartition(".")[2],
)
def test_every_contract_of_ours_has_policies(contracts: Any) -> None:
    for service in contracts.DESCRIPTOR.services_by_name.values():
        said = policies_of(service)
        assert sorted(said) == sorted(service.methods_by_name)
        file = FileDescriptorProto()
        contracts.DESCRIPTOR.CopyToProto(file)
        assert policies_of_proto(FileDescriptorSet(file=[file]))[service.full_name] == said


def test_policy_of_the_shop_is_what_its_contract_says() -> None:
    said = policies_of(orders_pb2.DESCRIPTOR.services_by_name["Orders"])
    assert said["PlaceOrder"].callers == callers("gateway", "batch/*")
    assert said["PlaceOrder"].deadline == DeadlineRule(required=True, max_s=5)
    assert said["GetOrder"].idempotency is Idempotency.NO_SIDE_EFFECTS
    assert said["GetOrder"].origin == "service"
    assert said["WatchOrder"].response_streaming
