"""What is read from an uploaded contract is what its author wrote, and nothing more is kept."""

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from hauberk.interceptors.policy import policies_of, policies_of_proto
from hauberk.protos.hauberk.policy.v1 import policy_pb2
from hauberk.protos.shop.catalog.v1 import catalog_pb2
from hauberk.protos.shop.orders.v1 import orders_pb2
from hauberk.protos.shop.payments.v1 import payments_pb2
from hauberk.services.control.contracts import read_contracts, to_proto
from tests.control.core_mesh import CATALOG, PAYMENTS, shop_descriptors

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
        described.options.Extensions[POLICY].CopyFrom(to_proto(policies[described.name]))
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
