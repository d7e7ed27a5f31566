"""The contract every server of the benchmark serves, made here: so many methods, all of one message.

The same bytes go to all of them. What hauberk demands of a call is said in the options, as in any contract.
"""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import ServiceDescriptor

from hauberk.protos.hauberk.policy.v1 import policy_pb2

SERVICE = "bench.v1.Bench"
UNARY = f"/{SERVICE}/Echo"
STREAM = f"/{SERVICE}/Tell"
STREAMED = 10
"""Replies of a call to STREAM."""
CLIENT = "client"
"""Who may call."""
DEADLINE_S = 5.0
"""What callers give a call."""

_FIELD = descriptor_pb2.FieldDescriptorProto
_FIELDS = (
    ("id", _FIELD.TYPE_STRING),
    ("sku", _FIELD.TYPE_STRING),
    ("quantity", _FIELD.TYPE_INT32),
    ("note", _FIELD.TYPE_STRING),
    ("at", _FIELD.TYPE_INT64),
)

# The demands of every method. What is enforced adds its lines here, and its name to ON.
_DEMANDS = policy_pb2.Policy(callers=[CLIENT])
_DEMANDS.deadline.required = True
_DEMANDS.deadline.max.seconds = 10

ON = ("identity from the certificate", "authorization", "deadline", "access log")
"""What hauberk does for each call in these figures, besides the checks that cannot be turned off."""


def contract(methods: int = 2) -> ServiceDescriptor:
    """The service with so many methods, registered with this process: once in each."""
    file = descriptor_pb2.FileDescriptorProto(
        name="bench/v1/bench.proto",
        package="bench.v1",
        syntax="proto3",
        dependency=[policy_pb2.DESCRIPTOR.name],
    )
    item = file.message_type.add(name="Item")
    for number, (name, kind) in enumerate(_FIELDS, 1):
        item.field.add(name=name, number=number, type=kind, label=_FIELD.LABEL_OPTIONAL)
    service = file.service.add(name="Bench")
    for name in ("Echo", "Tell", *(f"Echo{number}" for number in range(2, methods))):
        method = service.method.add(
            name=name,
            input_type=".bench.v1.Item",
            output_type=".bench.v1.Item",
            server_streaming=name == "Tell",
        )
        options: Any = method.options
        options.Extensions[policy_pb2.policy].CopyFrom(_DEMANDS)
    pool: Any = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    found: ServiceDescriptor = pool.FindServiceByName(SERVICE)
    return found


def request(described: ServiceDescriptor) -> bytes:
    """A message of about 100 bytes."""
    item: Any = message_factory.GetMessageClass(described.methods[0].input_type)
    made = item(id="0123456789abcdef", sku="teapot-blue", quantity=3, note="n" * 50, at=1_790_000_000_000)
    serialized: bytes = made.SerializeToString()
    return serialized


def handlers(described: ServiceDescriptor) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
    """What generated code would make of a servicer that does next to nothing, by name."""
    item: Any = message_factory.GetMessageClass(described.methods[0].input_type)

    async def echo(request: Any, context: Any) -> Any:
        return request

    async def tell(request: Any, context: Any) -> AsyncIterator[Any]:
        for _ in range(STREAMED):
            yield request

    return {
        method.name: grpc.unary_stream_rpc_method_handler(tell, item.FromString, item.SerializeToString)
        if method.server_streaming
        else grpc.unary_unary_rpc_method_handler(echo, item.FromString, item.SerializeToString)
        for method in described.methods
    }
