"""Reflection of exactly what a server serves, in both versions, for operators."""

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as v1alpha
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.protos.shop.catalog.v1 import catalog_pb2_grpc
from hauberk.protos.third_party.grpc.reflection.v1 import reflection_pb2 as v1
from tests.face.town import Town

CATALOG = "shop.catalog.v1.Catalog"
FILE = "shop/catalog/v1/catalog.proto"


@pytest.fixture
async def address(town: Town) -> str:
    server = town.server()
    catalog_pb2_grpc.add_CatalogServicer_to_server(Catalog(), server)  # type: ignore[abstract]
    await server.start()
    return server.address


async def test_the_services_of_the_server_are_listed(town: Town, address: str) -> None:
    (answer,) = await ask(town, address, {"list_services": ""})
    assert [service.name for service in answer.list_services_response.service] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        CATALOG,
    ]


@pytest.mark.parametrize(
    "symbol", [CATALOG, f"{CATALOG}.GetProduct", "shop.catalog.v1.Product", "shop.catalog.v1.Product.sku"]
)
async def test_a_symbol_leads_to_its_file_and_all_it_imports(town: Town, address: str, symbol: str) -> None:
    (answer,) = await ask(town, address, {"file_containing_symbol": symbol})
    files = _files(answer)
    assert next(iter(files)) == FILE
    assert {name for file in files.values() for name in file.dependency} <= set(files)


async def test_the_versions_are_the_same_on_the_wire(town: Town, address: str) -> None:
    asked = {"file_by_filename": FILE}
    answers = [await ask(town, address, asked, version=version) for version in ("v1", "v1alpha")]
    assert answers[0] == answers[1]
    channel: Any = town.channel(address, town.credentials("operators/local"))
    stub: Any = ServerReflectionStub(channel)
    requests = iter([v1alpha.ServerReflectionRequest(list_services="")])
    async for answer in stub.ServerReflectionInfo(requests, timeout=5):
        assert CATALOG in [service.name for service in answer.list_services_response.service]


async def test_extensions_of_the_contract_s_files(town: Town, address: str) -> None:
    of = "google.protobuf.MethodOptions"
    numbers, extension = await ask(
        town,
        address,
        {"all_extension_numbers_of_type": of},
        {"file_containing_extension": v1.ExtensionRequest(containing_type=of, extension_number=50712)},
    )
    assert numbers.all_extension_numbers_response.base_type_name == of
    assert list(numbers.all_extension_numbers_response.extension_number) == [50712]
    assert next(iter(_files(extension))) == "hauberk/policy/v1/policy.proto"


@pytest.mark.parametrize(
    "asked",
    [
        {"file_containing_symbol": "no.such.Thing"},
        {"file_by_filename": "no/such.proto"},
        {"file_containing_symbol": "hauberk.control.v1.Admin"},
        {"file_by_filename": "hauberk/control/v1/admin.proto"},
        {"all_extension_numbers_of_type": "hauberk.control.v1.Replica"},
        {"file_containing_extension": v1.ExtensionRequest(containing_type="no.Such", extension_number=1)},
    ],
    ids=str,
)
async def test_what_is_not_served_is_not_found(town: Town, address: str, asked: dict[str, Any]) -> None:
    """This process has the control plane's contracts loaded, but this server does not offer them."""
    assert admin_pb2.DESCRIPTOR.name == "hauberk/control/v1/admin.proto"
    (answer,) = await ask(town, address, asked)
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert answer.original_request == v1.ServerReflectionRequest(**asked)


async def test_asking_for_nothing_is_an_error_and_the_stream_goes_on(town: Town, address: str) -> None:
    nothing, listed = await ask(town, address, {}, {"list_services": ""})
    assert nothing.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert listed.list_services_response.service


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_only_operators_may_ask(town: Town, address: str, version: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(town, address, {"list_services": ""}, version=version, name="gateway")
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


class Catalog(catalog_pb2_grpc.CatalogServicer):
    """Leaves every method out."""


async def ask(
    town: Town, address: str, *asked: dict[str, Any], version: str = "v1", name: str = "operators/local"
) -> list[v1.ServerReflectionResponse]:
    stub: Any = town.channel(address, town.credentials(name)).stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=v1.ServerReflectionRequest.SerializeToString,
        response_deserializer=v1.ServerReflectionResponse.FromString,
    )
    requests = iter([v1.ServerReflectionRequest(**fields) for fields in asked])
    return [answer async for answer in stub(requests, timeout=5)]


def _files(answer: v1.ServerReflectionResponse) -> dict[str, FileDescriptorProto]:
    files = [
        FileDescriptorProto.FromString(serialized)
        for serialized in answer.file_descriptor_response.file_descriptor_proto
    ]
    return {file.name: file for file in files}
