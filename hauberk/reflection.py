"""gRPC server reflection, v1 and v1alpha, of the services that are on this server and of nothing else.

Their messages are the same on the wire, so one servicer, written in those of v1, stands under both names.
What can be asked for are the files of the services served and what these import; the process may have loaded
other contracts, which are no caller's business. Built in on every server, for operators.
Source: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection_pb2 as _v1alpha  # noqa: F401 - loads its file, to be described too

from hauberk.interceptors.servant import RpcMethod
from hauberk.protos.third_party.grpc.reflection.v1.reflection_pb2 import (
    ErrorResponse,
    ExtensionNumberResponse,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    Context = ServicerContext[ServerReflectionRequest, ServerReflectionResponse]

METHOD = "ServerReflectionInfo"


class Reflection:
    """Answers for the services named by `services`, which is asked each time: they may be added later."""

    def __init__(
        self, services: Callable[[], Iterable[str]], pool: descriptor_pool.DescriptorPool | None = None
    ) -> None:
        self._services = services
        self._pool = pool or descriptor_pool.Default()

    def handlers(self, *, plain: bool = False) -> dict[str, RpcMethod]:
        """The method handlers, the same for either version; `plain` for a threaded server."""
        return {
            METHOD: grpc.stream_stream_rpc_method_handler(
                self.inform_plainly if plain else self.inform,
                request_deserializer=ServerReflectionRequest.FromString,
                response_serializer=ServerReflectionResponse.SerializeToString,
            )
        }

    async def inform(self, requests: AsyncIterator[ServerReflectionRequest], context: "Context") -> None:
        async for request in requests:
            await context.write(self.answer(request))

    def inform_plainly(
        self, requests: Iterator[ServerReflectionRequest], context: grpc.ServicerContext
    ) -> Iterator[ServerReflectionResponse]:
        yield from map(self.answer, requests)

    def answer(self, request: ServerReflectionRequest) -> ServerReflectionResponse:
        """The response to one request; what is not there is an error inside it, never an exception."""
        response = ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            self._fill(request, response)
        except KeyError:
            response.error_response.CopyFrom(_error(grpc.StatusCode.NOT_FOUND, "not found"))
        return response

    def _fill(self, request: ServerReflectionRequest, response: ServerReflectionResponse) -> None:
        match request.WhichOneof("message_request"):
            case "list_services":
                names = [ServiceResponse(name=name) for name in sorted(self._services())]
                response.list_services_response.CopyFrom(ListServiceResponse(service=names))
            case "file_by_filename":
                response.file_descriptor_response.CopyFrom(self._files(request.file_by_filename))
            case "file_containing_symbol":
                file = self._declaring(request.file_containing_symbol)
                response.file_descriptor_response.CopyFrom(self._files(file.name))
            case "file_containing_extension":
                wanted = request.file_containing_extension
                extended = self._pool.FindMessageTypeByName(wanted.containing_type)
                extension: Any = self._pool.FindExtensionByNumber(extended, wanted.extension_number)
                response.file_descriptor_response.CopyFrom(self._files(extension.file.name))
            case "all_extension_numbers_of_type":
                numbers = self._extension_numbers(request.all_extension_numbers_of_type)
                response.all_extension_numbers_response.CopyFrom(numbers)
            case _:
                response.error_response.CopyFrom(_error(grpc.StatusCode.INVALID_ARGUMENT, "asks for nothing"))

    def _declaring(self, symbol: str) -> FileDescriptor:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:  # which knows every symbol but methods
            method: Any = self._pool.FindMethodByName(symbol)
            file: FileDescriptor = method.containing_service.file
            return file

    def _files(self, name: str) -> FileDescriptorResponse:
        """The file of that name and all it imports, imports last. Raises KeyError if it is not of ours."""
        served = self._served()
        files = with_imports([served[name]])
        return FileDescriptorResponse(file_descriptor_proto=[file.serialized_pb for file in files])

    def _extension_numbers(self, type_name: str) -> ExtensionNumberResponse:
        message = self._pool.FindMessageTypeByName(type_name)
        served = self._served()
        if message.file.name not in served:
            raise KeyError(type_name)
        extensions: Iterable[Any] = self._pool.FindAllExtensions(message)
        numbers = sorted(extension.number for extension in extensions if extension.file.name in served)
        return ExtensionNumberResponse(base_type_name=message.full_name, extension_number=numbers)

    def _served(self) -> dict[str, FileDescriptor]:
        return {file.name: file for file in with_imports(files_of(self._services(), self._pool))}


def files_of(
    services: Iterable[str], pool: descriptor_pool.DescriptorPool | None = None
) -> list[FileDescriptor]:
    """The files that declare `services`, each once; a service that no loaded file declares is passed over."""
    files: dict[str, FileDescriptor] = {}
    for service in services:
        try:
            file = (pool or descriptor_pool.Default()).FindServiceByName(service).file
        except KeyError:
            continue
        files[file.name] = file
    return list(files.values())


def with_imports(files: Iterable[FileDescriptor]) -> list[FileDescriptor]:
    """`files` and all they import, each once, a file before those it imports."""
    found: dict[str, FileDescriptor] = {}
    waiting = list(files)
    while waiting:
        file = waiting.pop(0)
        if file.name not in found:
            found[file.name] = file
            waiting.extend(file.dependencies)
    return list(found.values())


def _error(code: grpc.StatusCode, message: str) -> ErrorResponse:
    number: int = code.value[0]
    return ErrorResponse(error_code=number, error_message=message)
