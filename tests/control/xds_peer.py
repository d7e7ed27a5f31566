"""One client and the control plane's record of it, with no network in between."""

from datetime import timedelta

from google.rpc.status_pb2 import Status as RpcStatus

from hauberk.protos.hauberk.control.v1.admin_pb2 import TypeState
from hauberk.protos.third_party.envoy.config.core.v3.base_pb2 import Node
from hauberk.protos.third_party.envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from hauberk.protos.third_party.envoy.service.discovery.v3.discovery_pb2 import (
    DiscoveryRequest,
    DiscoveryResponse,
)
from hauberk.services.control.clients import (
    Client,
)
from hauberk.services.control.snapshot import Workload
from hauberk.services.control.xds.resource import ResourceType
from hauberk.services.control.xds.view import Resources
from tests.control.xds_mesh import NOW, contract, snapshot, spiffe, workload

ORDERS = contract("shop.Orders", Place=["gateway"])
CATALOG = contract("shop.Catalog", List=["gateway"])
HIDDEN = contract("secret.Vault", Open=["banker"])
HERE, THERE = "127.0.0.1:1001", "127.0.0.1:1002"
ROUTES, CLUSTER, ENDPOINTS = ResourceType.ROUTES, ResourceType.CLUSTER, ResourceType.ENDPOINTS


class Peer:
    """A gateway's client and the control plane's record of it, with nothing in between."""

    def __init__(self) -> None:
        self.record = Client(spiffe("gateway"), NOW)
        self.names: dict[ResourceType, tuple[str, ...]] = {}
        self.resources = Resources(snapshot(), spiffe("control"))
        self.show(
            workload("orders", ORDERS, at=[HERE]),
            workload("catalog", CATALOG, at=[THERE]),
            workload("vault", HIDDEN, at=["10.0.0.1:1"]),
        )

    def show(self, *workloads: Workload) -> None:
        self.resources = Resources(snapshot(*workloads), spiffe("control"), self.resources)

    def ask(self, kind: ResourceType, *names: str, nonce: str = "", error: str = "", at: int = 0) -> None:
        self.names[kind] = names
        request = DiscoveryRequest(
            node=Node(id="n", user_agent_name="agent", user_agent_version="1"),
            type_url=kind.value,
            resource_names=names,
            response_nonce=nonce,
            error_detail=RpcStatus(code=3, message=error) if error else None,
        )
        self.record.receive(request, NOW + timedelta(seconds=at))

    def next(self) -> DiscoveryResponse | None:
        body = self.record.next_response(self.resources, "control")
        return None if body is None else DiscoveryResponse.FromString(body)

    def expect(self) -> DiscoveryResponse:
        response = self.next()
        assert response is not None
        return response

    def answer(self, response: DiscoveryResponse, error: str = "", at: int = 0) -> None:
        kind = ResourceType(response.type_url)
        self.ask(kind, *self.names[kind], nonce=response.nonce, error=error, at=at)

    def fetch(self, kind: ResourceType, *names: str) -> DiscoveryResponse:
        self.ask(kind, *names)
        response = self.expect()
        self.answer(response)
        assert self.next() is None
        return response

    def state(self, kind: ResourceType) -> TypeState:
        return next(each for each in self.record.describe().types if each.type == kind.short)


def names(response: DiscoveryResponse) -> list[str]:
    """The names in it, found in the bytes: `name` or `cluster_name` is field 1 of each type."""
    found = []
    for packed in response.resources:
        length = packed.value[1]
        assert packed.value[0] == 0x0A
        found.append(packed.value[2 : 2 + length].decode())
    return found


def endpoints(response: DiscoveryResponse) -> dict[str, list[int]]:
    found = {}
    for packed in response.resources:
        message = ClusterLoadAssignment()
        assert packed.Unpack(message)
        found[message.cluster_name] = [
            each.endpoint.address.socket_address.port_value
            for locality in message.endpoints
            for each in locality.lb_endpoints
        ]
    return found
