"""A contract as its server describes it, by reflection, in a descriptor pool of its own.

What a server sends is never added to the process's own pool, where it could stand in for a contract of ours;
and it is bounded, because the server is not us. Source:
https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

import asyncio
from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from hauberk.cli.dial import CALL_S
from hauberk.cli.errors import CommandFailed
from hauberk.protos.third_party.grpc.reflection.v1.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

METHOD = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
MAX_FILES = 500
MAX_BYTES = 4 * 1024 * 1024


async def described_method(channel: grpc.aio.Channel, service: str, method: str) -> MethodDescriptor:
    """The method as the server behind `channel` describes it. Raises AioRpcError, or CommandFailed."""
    pool = _pool(await _files(channel, service))
    try:
        found = pool.FindServiceByName(service).methods_by_name.get(method)
    except KeyError:
        found = None
    if found is None:
        raise CommandFailed(
            f"{service} has no method {method!r}", f"its methods: hauberk policy show {service}"
        )
    return found


async def _files(channel: grpc.aio.Channel, service: str) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """The file that declares `service` and all it imports, by name."""
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    size = 0
    inform = channel.stream_stream(
        METHOD,
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )
    async with asyncio.timeout(CALL_S):
        call = inform(timeout=CALL_S)
        request = ServerReflectionRequest(file_containing_symbol=service)
        while True:
            await call.write(request)
            response = await call.read()
            if not isinstance(response, ServerReflectionResponse):
                await call.code()
                raise CommandFailed("the server ended its description early", "try again")
            for data in _descriptors(response, service):
                size += len(data)
                file = descriptor_pb2.FileDescriptorProto.FromString(data)
                found[file.name] = file
            if len(found) > MAX_FILES or size > MAX_BYTES:
                raise CommandFailed(
                    f"the server describes {service} with more than {MAX_FILES} files or 4 MiB"
                )
            wanted = {name for file in found.values() for name in file.dependency} - found.keys()
            if not wanted:
                await call.done_writing()
                return found
            request = ServerReflectionRequest(file_by_filename=min(wanted))


def _descriptors(response: ServerReflectionResponse, service: str) -> Iterable[bytes]:
    if response.HasField("error_response"):
        raise CommandFailed(
            f"the server describes no {service}: {response.error_response.error_message}",
            "what there is: hauberk policy show",
        )
    return response.file_descriptor_response.file_descriptor_proto


def _pool(files: dict[str, descriptor_pb2.FileDescriptorProto]) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()

    def add(name: str) -> None:
        if name not in added:
            added.add(name)  # first, so that a circle of imports ends in an error and not in the stack
            for imported in files[name].dependency:
                add(imported)
            pool.AddSerializedFile(files[name].SerializeToString())

    try:
        for name in files:
            add(name)
    except TypeError as error:
        raise CommandFailed(f"the server's description cannot be used: {error}") from error
    return pool
