from hauberk.protos.third_party.envoy.config.core.v3 import grpc_service_pb2 as _grpc_service_pb2
from hauberk.protos.third_party.udpa.annotations import status_pb2 as _status_pb2
from hauberk.protos.third_party.udpa.annotations import versioning_pb2 as _versioning_pb2
from hauberk.protos.third_party.validate import validate_pb2 as _validate_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventServiceConfig(_message.Message):
    __slots__ = ("grpc_service",)
    GRPC_SERVICE_FIELD_NUMBER: _ClassVar[int]
    grpc_service: _grpc_service_pb2.GrpcService
    def __init__(self, grpc_service: _Optional[_Union[_grpc_service_pb2.GrpcService, _Mapping]] = ...) -> None: ...
