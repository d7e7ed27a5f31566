"""What generated code hands to a server: a servicer's methods, and the contract they are of."""

from collections.abc import Mapping

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from hauberk import builtin
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.policy import Policy, policies_of
from hauberk.interceptors.servant import RpcMethod


def policies_in(contract: ServiceDescriptor) -> Mapping[str, Policy]:
    """What the contract demands; of a contract that others wrote and every server offers, what we demand."""
    return builtin.POLICIES.get(contract.full_name) or policies_of(contract)


def contract_of(service: str) -> ServiceDescriptor:
    """Raises PolicyError where it is not loaded."""
    try:
        return descriptor_pool.Default().FindServiceByName(service)
    except KeyError as error:
        raise PolicyError(
            f"{service} has no contract in this process, so it has no policies: import its _pb2 module"
        ) from error


class _Details(grpc.HandlerCallDetails):
    """Which handler stands for a method is asked with these."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


def handlers_of(generic: grpc.ServiceRpcHandler, contract: ServiceDescriptor) -> Mapping[str, RpcMethod]:
    """Those that the servicer has, by name."""
    names = [method.name for method in contract.methods]
    found = {name: generic.service(_Details(f"/{contract.full_name}/{name}")) for name in names}
    return {name: handler for name, handler in found.items() if handler is not None}
