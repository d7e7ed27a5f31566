import datetime

from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
DEFAULTS_FIELD_NUMBER: _ClassVar[int]
defaults: _descriptor.FieldDescriptor
POLICY_FIELD_NUMBER: _ClassVar[int]
policy: _descriptor.FieldDescriptor

class Policy(_message.Message):
    __slots__ = ("callers", "anonymous", "deadline", "message")
    CALLERS_FIELD_NUMBER: _ClassVar[int]
    ANONYMOUS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    callers: _containers.RepeatedScalarFieldContainer[str]
    anonymous: bool
    deadline: Deadline
    message: MessageBounds
    def __init__(self, callers: _Optional[_Iterable[str]] = ..., anonymous: _Optional[bool] = ..., deadline: _Optional[_Union[Deadline, _Mapping]] = ..., message: _Optional[_Union[MessageBounds, _Mapping]] = ...) -> None: ...

class Deadline(_message.Message):
    __slots__ = ("required", "max", "default")
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    required: bool
    max: _duration_pb2.Duration
    default: _duration_pb2.Duration
    def __init__(self, required: _Optional[bool] = ..., max: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., default: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class MessageBounds(_message.Message):
    __slots__ = ("max_bytes", "max_items")
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_ITEMS_FIELD_NUMBER: _ClassVar[int]
    max_bytes: int
    max_items: int
    def __init__(self, max_bytes: _Optional[int] = ..., max_items: _Optional[int] = ...) -> None: ...
