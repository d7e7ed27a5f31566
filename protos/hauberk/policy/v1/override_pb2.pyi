from hauberk.protos.hauberk.policy.v1 import policy_pb2 as _policy_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Override(_message.Message):
    __slots__ = ("method", "policy", "fields", "shadow")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    method: str
    policy: _policy_pb2.Policy
    fields: _containers.RepeatedScalarFieldContainer[str]
    shadow: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, method: _Optional[str] = ..., policy: _Optional[_Union[_policy_pb2.Policy, _Mapping]] = ..., fields: _Optional[_Iterable[str]] = ..., shadow: _Optional[_Iterable[str]] = ...) -> None: ...
