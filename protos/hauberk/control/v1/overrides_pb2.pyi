from hauberk.protos.hauberk.policy.v1 import override_pb2 as _override_pb2
from hauberk.protos.hauberk.policy.v1 import policy_pb2 as _policy_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchOverridesRequest(_message.Message):
    __slots__ = ("replica", "version", "refused")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    replica: str
    version: str
    refused: str
    def __init__(self, replica: _Optional[str] = ..., version: _Optional[str] = ..., refused: _Optional[str] = ...) -> None: ...

class WatchOverridesResponse(_message.Message):
    __slots__ = ("overrides", "version", "trial")
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    overrides: _containers.RepeatedCompositeFieldContainer[_override_pb2.Override]
    version: str
    trial: bool
    def __init__(self, overrides: _Optional[_Iterable[_Union[_override_pb2.Override, _Mapping]]] = ..., version: _Optional[str] = ..., trial: _Optional[bool] = ...) -> None: ...
