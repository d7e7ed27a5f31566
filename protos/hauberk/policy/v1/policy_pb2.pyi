import datetime

from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_LOW: _ClassVar[Priority]
    PRIORITY_NORMAL: _ClassVar[Priority]
    PRIORITY_HIGH: _ClassVar[Priority]
PRIORITY_UNSPECIFIED: Priority
PRIORITY_LOW: Priority
PRIORITY_NORMAL: Priority
PRIORITY_HIGH: Priority
DEFAULTS_FIELD_NUMBER: _ClassVar[int]
defaults: _descriptor.FieldDescriptor
POLICY_FIELD_NUMBER: _ClassVar[int]
policy: _descriptor.FieldDescriptor

class Policy(_message.Message):
    __slots__ = ("callers", "anonymous", "deadline", "token", "quota", "priority", "audit", "message")
    CALLERS_FIELD_NUMBER: _ClassVar[int]
    ANONYMOUS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    callers: _containers.RepeatedScalarFieldContainer[str]
    anonymous: bool
    deadline: Deadline
    token: Token
    quota: _containers.RepeatedCompositeFieldContainer[Quota]
    priority: Priority
    audit: bool
    message: MessageBounds
    def __init__(self, callers: _Optional[_Iterable[str]] = ..., anonymous: _Optional[bool] = ..., deadline: _Optional[_Union[Deadline, _Mapping]] = ..., token: _Optional[_Union[Token, _Mapping]] = ..., quota: _Optional[_Iterable[_Union[Quota, _Mapping]]] = ..., priority: _Optional[_Union[Priority, str]] = ..., audit: _Optional[bool] = ..., message: _Optional[_Union[MessageBounds, _Mapping]] = ...) -> None: ...

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

class Token(_message.Message):
    __slots__ = ("roles", "scopes", "claims", "bound", "pass_on")
    ROLES_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    PASS_ON_FIELD_NUMBER: _ClassVar[int]
    roles: _containers.RepeatedScalarFieldContainer[str]
    scopes: _containers.RepeatedScalarFieldContainer[str]
    claims: _containers.RepeatedCompositeFieldContainer[Claim]
    bound: bool
    pass_on: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, roles: _Optional[_Iterable[str]] = ..., scopes: _Optional[_Iterable[str]] = ..., claims: _Optional[_Iterable[_Union[Claim, _Mapping]]] = ..., bound: _Optional[bool] = ..., pass_on: _Optional[_Iterable[str]] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("path", "values")
    PATH_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    path: str
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, path: _Optional[str] = ..., values: _Optional[_Iterable[str]] = ...) -> None: ...

class Quota(_message.Message):
    __slots__ = ("limit", "per", "burst", "key", "header", "cost")
    class Key(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KEY_UNSPECIFIED: _ClassVar[Quota.Key]
        KEY_CALLER: _ClassVar[Quota.Key]
        KEY_SUBJECT: _ClassVar[Quota.Key]
        KEY_METHOD: _ClassVar[Quota.Key]
        KEY_HEADER: _ClassVar[Quota.Key]
    KEY_UNSPECIFIED: Quota.Key
    KEY_CALLER: Quota.Key
    KEY_SUBJECT: Quota.Key
    KEY_METHOD: Quota.Key
    KEY_HEADER: Quota.Key
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PER_FIELD_NUMBER: _ClassVar[int]
    BURST_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    limit: int
    per: _duration_pb2.Duration
    burst: int
    key: Quota.Key
    header: str
    cost: str
    def __init__(self, limit: _Optional[int] = ..., per: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., burst: _Optional[int] = ..., key: _Optional[_Union[Quota.Key, str]] = ..., header: _Optional[str] = ..., cost: _Optional[str] = ...) -> None: ...
