"""What is read from an uploaded contract is what its author wrote, and nothing more is kept."""

from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from hauberk.interceptors.policy import policies_of, policies_of_proto
from hauberk.protos.hauberk.policy.v1 import policy_pb2
from hauberk.protos.shop.catalog.v1 import catalog_pb2
from hauberk.protos.shop.orders.v1 import orders_pb2
from hauberk.protos.shop.payments.v1 import payments_pb2
from hauberk.services.control.contracts import read_contracts
from tests.control.core_mesh import CATALOG, PAYMENTS, CoreMesh, shop_descriptors
from tests.control.test_core_registry import refused

POLICY: Any = policy_pb2.policy  # its stub does not say whose extension it is


def bounded(seconds: int) -> bytes:
    """The catalog's contract, each of its methods with this longest deadline."""
    files = FileDescriptorSet.FromString(shop_descriptors())
    for method in files.file[0].service[0].method:
        policy = policy_pb2.Policy(callers=["gateway"])
        policy.deadline.max.seconds = seconds
        method.options.Extensions[POLICY].CopyFrom(policy)
    return files.SerializeToString()


def test_policies_are_those_the_servers_enforce() -> None:
    [announced] = read_contracts(shop_descriptors(), [CATALOG])
    service = catalog_pb2.DESCRIPTOR.services_by_name["Catalog"]
    assert announced.contract.methods == policies_of(service)


def respelled(service: ServiceDescriptor) -> FileDescriptorSet:
    """The service's file, with each method's options replaced by our own spelling of its policy."""
    files = FileDescriptorSet()
    service.file.CopyToProto(files.file.add())
    policies = policies_of(service)
    for described in files.file[0].service[service.index].method:
        level = described.options.idempotency_level
        described.ClearField("options")
        described.options.idempotency_level = level
        described.options.Extensions[POLICY].CopyFrom(policies[described.name].declared())
    return files


@pytest.mark.parametrize("module", [catalog_pb2, orders_pb2, payments_pb2])
def test_a_policy_can_be_spelled_as_its_contract_did(module: Any) -> None:
    [service] = module.DESCRIPTOR.services_by_name.values()
    before, after = policies_of(service), policies_of_proto(respelled(service))[service.full_name]
    assert {name: replace(policy, origin="") for name, policy in after.items()} == {
        name: replace(policy, origin="") for name, policy in before.items()
    }


def test_only_the_service_is_kept_of_what_was_uploaded() -> None:
    [announced] = read_contracts(shop_descriptors(), [PAYMENTS])
    [file] = FileDescriptorSet.FromString(announced.descriptor).file
    assert [service.name for service in file.service] == ["Payments"]
    assert not file.message_type
    assert not file.dependency


def test_what_is_kept_reads_as_the_same_contract() -> None:
    [announced] = read_contracts(shop_descriptors(), [CATALOG])
    assert read_contracts(announced.descriptor, [CATALOG]) == (announced,)


def test_versions_differ_where_demands_do() -> None:
    versions = [
        read_contracts(descriptors, [CATALOG])[0].contract.version
        for descriptors in (shop_descriptors(), bounded(7), bounded(8), bounded(7))
    ]
    assert len(set(versions)) == 3
    assert versions[1] == versions[3]


def test_comments_and_messages_make_no_new_version() -> None:
    files = FileDescriptorSet.FromString(shop_descriptors())
    files.file[0].message_type.add(name="Another")
    [before] = read_contracts(shop_descriptors(), [CATALOG])
    [after] = read_contracts(files.SerializeToString(), [CATALOG])
    assert before.contract.version == after.contract.version


def described(change: str) -> bytes:
    """The catalog's contract, with one method changed as a careless or newer author would."""
    files = FileDescriptorSet.FromString(shop_descriptors())
    service = files.file[0].service[0]
    if change == "no policy":
        service.ClearField("options")
        for method in service.method:
            method.ClearField("options")
    elif change == "unknown field":
        policy = b"\x0a\x01a" + b"\x7a\x01x"  # callers: "a", and field 15
        service.method[0].options.MergeFromString(b"\xc2\xe1\x18" + bytes([len(policy)]) + policy)
    elif change == "too many methods":
        service.method.extend([service.method[0]] * 500)
    elif change == "a method's name is no text":
        service.method[0].name = "QQQQ"
        return files.SerializeToString().replace(b"QQQQ", b"\xff\xfe\xfd\xfc")
    elif change == "a method's name is a path":
        service.method[0].name = "../Admin"
    elif change == "too long":
        service.method[0].options.Extensions[POLICY].callers.extend(["gateway"] * 20_000)
    elif change == "too many files":
        return files.SerializeToString() + b"\x0a\x00" * 400_000
    return files.SerializeToString()


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        ("no policy", "POLICY_REFUSED", f"method has no policy: {CATALOG}."),
        ("unknown field", "POLICY_REFUSED", "has a field this build does not know: number 15"),
        ("too many methods", "OFFER_REFUSED", "at most 500 are read"),
        ("a method's name is no text", "OFFER_REFUSED", "a method whose name is none: b'\\xff"),
        ("a method's name is a path", "OFFER_REFUSED", "a method whose name is none: '../Admin'"),
        ("too long", "OFFER_REFUSED", "at most 131072 are kept"),
        ("too many files", "OFFER_REFUSED", "over 2000 files"),
    ],
)
async def test_a_contract_that_cannot_be_enforced_is_refused(
    mesh: CoreMesh, change: str, reason: str, says: str
) -> None:
    catalog = await mesh.join("catalog", [CATALOG])
    code, told, message = await refused(catalog, descriptors=described(change))
    assert (code, told) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert says in message
