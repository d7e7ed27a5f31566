import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from hauberk.protos.hauberk.policy.v1 import policy_pb2 as _policy_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrolRequest(_message.Message):
    __slots__ = ("join_token", "certificate_request")
    JOIN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    join_token: str
    certificate_request: bytes
    def __init__(self, join_token: _Optional[str] = ..., certificate_request: _Optional[bytes] = ...) -> None: ...

class EnrolResponse(_message.Message):
    __slots__ = ("certificate", "trust", "control_targets", "control_id")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    CONTROL_TARGETS_FIELD_NUMBER: _ClassVar[int]
    CONTROL_ID_FIELD_NUMBER: _ClassVar[int]
    certificate: Certificate
    trust: Trust
    control_targets: _containers.RepeatedScalarFieldContainer[str]
    control_id: str
    def __init__(self, certificate: _Optional[_Union[Certificate, _Mapping]] = ..., trust: _Optional[_Union[Trust, _Mapping]] = ..., control_targets: _Optional[_Iterable[str]] = ..., control_id: _Optional[str] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("certificate_request",)
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    certificate_request: bytes
    def __init__(self, certificate_request: _Optional[bytes] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("certificate", "trust")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    certificate: Certificate
    trust: Trust
    def __init__(self, certificate: _Optional[_Union[Certificate, _Mapping]] = ..., trust: _Optional[_Union[Trust, _Mapping]] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("chain_pem", "spiffe_id", "expires_at", "lifetime")
    CHAIN_PEM_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    chain_pem: bytes
    spiffe_id: str
    expires_at: _timestamp_pb2.Timestamp
    lifetime: _duration_pb2.Duration
    def __init__(self, chain_pem: _Optional[bytes] = ..., spiffe_id: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., lifetime: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchTrustRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Trust(_message.Message):
    __slots__ = ("trust_domain", "roots_pem", "intermediates_pem", "revoked", "version", "withdrawn_contracts")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    ROOTS_PEM_FIELD_NUMBER: _ClassVar[int]
    INTERMEDIATES_PEM_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_CONTRACTS_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    roots_pem: bytes
    intermediates_pem: bytes
    revoked: _containers.RepeatedScalarFieldContainer[str]
    version: str
    withdrawn_contracts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, trust_domain: _Optional[str] = ..., roots_pem: _Optional[bytes] = ..., intermediates_pem: _Optional[bytes] = ..., revoked: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ..., withdrawn_contracts: _Optional[_Iterable[str]] = ...) -> None: ...
