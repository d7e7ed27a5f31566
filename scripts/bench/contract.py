"""The contract every server of the benchmark serves, made here: so many methods, all of one message.

The same bytes go to all of them. What hauberk demands of a call is said in the options, as in any contract.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import ServiceDescriptor

from hauberk.protos.hauberk.policy.v1 import policy_pb2
from hauberk.protos.third_party.buf.validate import validate_pb2
from scripts.bench.features import Without

SERVICE = "bench.v1.Bench"
UNARY = f"/{SERVICE}/Echo"
STREAM = f"/{SERVICE}/Tell"
STREAMED = 10
"""Replies of a call to STREAM."""
CLIENT = "client"
"""Who may call."""
DEADLINE_S = 5.0
"""What callers give a call."""

_Rules, _Text = validate_pb2.FieldRules, validate_pb2.StringRules
_FIELD = descriptor_pb2.FieldDescriptorProto
_FIELDS = (
    ("id", _FIELD.TYPE_STRING, _Rules(string=_Text(min_len=1, max_len=64))),
    ("sku", _FIELD.TYPE_STRING, _Rules(string=_Text(pattern="^[a-z][a-z0-9-]{2,39}$"))),
    ("quantity", _FIELD.TYPE_INT32, _Rules(int32=validate_pb2.Int32Rules(gte=1, lte=100))),
    ("note", _FIELD.TYPE_STRING, _Rules(string=_Text(max_len=200))),
    ("at", _FIELD.TYPE_INT64, _Rules(int64=validate_pb2.Int64Rules(gt=0))),
)

ROLE, SCOPE = "clerk", "bench"
"""What the token of a call has to have."""


def contract(methods: int = 2, without: Without = frozenset()) -> ServiceDescriptor:
    """The service with so many methods, registered with this process: once in each."""
    file = descriptor_pb2.FileDescriptorProto(
        name="bench/v1/bench.proto",
        package="bench.v1",
        syntax="proto3",
        dependency=[policy_pb2.DESCRIPTOR.name, validate_pb2.DESCRIPTOR.name],
    )
    item = file.message_type.add(name="Item")
    for number, (name, kind, rules) in enumerate(_FIELDS, 1):
        field = item.field.add(name=name, number=number, type=kind, label=_FIELD.LABEL_OPTIONAL)
        if "validation" not in without:
            said: Any = field.options
            said.Extensions[validate_pb2.field].CopyFrom(rules)
    service = file.service.add(name="Bench")
    for name in ("Echo", "Tell", *(f"Echo{number}" for number in range(2, methods))):
        method = service.method.add(
            name=name,
            input_type=".bench.v1.Item",
            output_type=".bench.v1.Item",
            server_streaming=name == "Tell",
        )
        options: Any = method.options
        options.Extensions[policy_pb2.policy].CopyFrom(_demands(without))
    pool: Any = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    found: ServiceDescriptor = pool.FindServiceByName(SERVICE)
    return found


def request(described: ServiceDescriptor, quantity: int = 3) -> bytes:
    """A message of about 100 bytes, which keeps the rules if `quantity` does: 1 to 100."""
    item: Any = message_factory.GetMessageClass(described.methods[0].input_type)
    made = item(
        id="0123456789abcdef", sku="teapot-blue", quantity=quantity, note="n" * 50, at=1_790_000_000_000
    )
    serialized: bytes = made.SerializeToString()
    return serialized


def handlers(
    described: ServiceDescriptor, *, plain: bool = False
) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
    """What generated code would make of a servicer that does next to nothing, by name.

    `plain` ones are for a server in threads.
    """
    item: Any = message_factory.GetMessageClass(described.methods[0].input_type)

    async def echo(request: Any, context: Any) -> Any:
        return request

    async def tell(request: Any, context: Any) -> AsyncIterator[Any]:
        for _ in range(STREAMED):
            yield request

    def plain_echo(request: Any, context: Any) -> Any:
        return request

    def plain_tell(request: Any, context: Any) -> Iterator[Any]:
        for _ in range(STREAMED):
            yield request

    one: Any = plain_echo if plain else echo
    many: Any = plain_tell if plain else tell
    return {
        method.name: grpc.unary_stream_rpc_method_handler(many, item.FromString, item.SerializeToString)
        if method.server_streaming
        else grpc.unary_unary_rpc_method_handler(one, item.FromString, item.SerializeToString)
        for method in described.methods
    }


def _demands(without: Without) -> policy_pb2.Policy:
    """The policy of every method; its quota is one that no load reaches."""
    demands = policy_pb2.Policy(callers=[CLIENT])
    if "deadline" not in without:
        demands.deadline.required = True
        demands.deadline.max.seconds = 10
    if "token" not in without:
        demands.token.SetInParent()
    if "roles" not in without:
        demands.token.roles.append(ROLE)
        demands.token.scopes.append(SCOPE)
    if "quota" not in without:
        quota = demands.quota.add(limit=100_000_000, key=policy_pb2.Quota.KEY_CALLER)
        quota.per.seconds = 60
    return demands
