import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from hauberk.protos.hauberk.control.v1 import registry_pb2 as _registry_pb2
from hauberk.protos.hauberk.policy.v1 import override_pb2 as _override_pb2
from hauberk.protos.hauberk.policy.v1 import policy_pb2 as _policy_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InviteRequest(_message.Message):
    __slots__ = ("name", "serves", "ttl", "keep_bindings")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SERVES_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    KEEP_BINDINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    serves: _containers.RepeatedScalarFieldContainer[str]
    ttl: _duration_pb2.Duration
    keep_bindings: bool
    def __init__(self, name: _Optional[str] = ..., serves: _Optional[_Iterable[str]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., keep_bindings: _Optional[bool] = ...) -> None: ...

class InviteResponse(_message.Message):
    __slots__ = ("join_token", "spiffe_id", "expires_at")
    JOIN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    join_token: str
    spiffe_id: str
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, join_token: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RevokeRequest(_message.Message):
    __slots__ = ("name", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RevokeResponse(_message.Message):
    __slots__ = ("spiffe_id",)
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    def __init__(self, spiffe_id: _Optional[str] = ...) -> None: ...

class ReinstateRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ReinstateResponse(_message.Message):
    __slots__ = ("spiffe_id",)
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    def __init__(self, spiffe_id: _Optional[str] = ...) -> None: ...

class ListReplicasRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListReplicasResponse(_message.Message):
    __slots__ = ("replicas",)
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    def __init__(self, replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("spiffe_id", "replica", "address", "status", "contracts", "agent", "svid_expires_at")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CONTRACTS_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    SVID_EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    replica: str
    address: str
    status: _registry_pb2.ServingStatus
    contracts: _containers.RepeatedScalarFieldContainer[str]
    agent: str
    svid_expires_at: _timestamp_pb2.Timestamp
    def __init__(self, spiffe_id: _Optional[str] = ..., replica: _Optional[str] = ..., address: _Optional[str] = ..., status: _Optional[_Union[_registry_pb2.ServingStatus, str]] = ..., contracts: _Optional[_Iterable[str]] = ..., agent: _Optional[str] = ..., svid_expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListPoliciesRequest(_message.Message):
    __slots__ = ("filter",)
    FILTER_FIELD_NUMBER: _ClassVar[int]
    filter: str
    def __init__(self, filter: _Optional[str] = ...) -> None: ...

class ListPoliciesResponse(_message.Message):
    __slots__ = ("methods",)
    METHODS_FIELD_NUMBER: _ClassVar[int]
    methods: _containers.RepeatedCompositeFieldContainer[MethodPolicy]
    def __init__(self, methods: _Optional[_Iterable[_Union[MethodPolicy, _Mapping]]] = ...) -> None: ...

class MethodPolicy(_message.Message):
    __slots__ = ("method", "policy", "origin", "idempotency", "version", "replicas", "overridden", "tried", "shadow", "declared")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    OVERRIDDEN_FIELD_NUMBER: _ClassVar[int]
    TRIED_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    DECLARED_FIELD_NUMBER: _ClassVar[int]
    method: str
    policy: _policy_pb2.Policy
    origin: str
    idempotency: str
    version: str
    replicas: _containers.RepeatedScalarFieldContainer[str]
    overridden: _containers.RepeatedScalarFieldContainer[str]
    tried: _containers.RepeatedScalarFieldContainer[str]
    shadow: _policy_pb2.Policy
    declared: _policy_pb2.Policy
    def __init__(self, method: _Optional[str] = ..., policy: _Optional[_Union[_policy_pb2.Policy, _Mapping]] = ..., origin: _Optional[str] = ..., idempotency: _Optional[str] = ..., version: _Optional[str] = ..., replicas: _Optional[_Iterable[str]] = ..., overridden: _Optional[_Iterable[str]] = ..., tried: _Optional[_Iterable[str]] = ..., shadow: _Optional[_Union[_policy_pb2.Policy, _Mapping]] = ..., declared: _Optional[_Union[_policy_pb2.Policy, _Mapping]] = ...) -> None: ...

class ApplyOverridesRequest(_message.Message):
    __slots__ = ("overrides",)
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    overrides: _containers.RepeatedCompositeFieldContainer[_override_pb2.Override]
    def __init__(self, overrides: _Optional[_Iterable[_Union[_override_pb2.Override, _Mapping]]] = ...) -> None: ...

class ApplyOverridesResponse(_message.Message):
    __slots__ = ("version", "changed", "enforced_by", "late")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    ENFORCED_BY_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    version: str
    changed: _containers.RepeatedScalarFieldContainer[str]
    enforced_by: _containers.RepeatedScalarFieldContainer[str]
    late: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., changed: _Optional[_Iterable[str]] = ..., enforced_by: _Optional[_Iterable[str]] = ..., late: _Optional[_Iterable[str]] = ...) -> None: ...

class ListClientsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListClientsResponse(_message.Message):
    __slots__ = ("clients",)
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    clients: _containers.RepeatedCompositeFieldContainer[XdsClient]
    def __init__(self, clients: _Optional[_Iterable[_Union[XdsClient, _Mapping]]] = ...) -> None: ...

class XdsClient(_message.Message):
    __slots__ = ("spiffe_id", "node_id", "user_agent", "user_agent_version", "connected_at", "types")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    USER_AGENT_FIELD_NUMBER: _ClassVar[int]
    USER_AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_AT_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    node_id: str
    user_agent: str
    user_agent_version: str
    connected_at: _timestamp_pb2.Timestamp
    types: _containers.RepeatedCompositeFieldContainer[TypeState]
    def __init__(self, spiffe_id: _Optional[str] = ..., node_id: _Optional[str] = ..., user_agent: _Optional[str] = ..., user_agent_version: _Optional[str] = ..., connected_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., types: _Optional[_Iterable[_Union[TypeState, _Mapping]]] = ...) -> None: ...

class TypeState(_message.Message):
    __slots__ = ("type", "names", "version_sent", "version_acked", "version_nacked", "nack_detail", "nacked_at")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    VERSION_SENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_ACKED_FIELD_NUMBER: _ClassVar[int]
    VERSION_NACKED_FIELD_NUMBER: _ClassVar[int]
    NACK_DETAIL_FIELD_NUMBER: _ClassVar[int]
    NACKED_AT_FIELD_NUMBER: _ClassVar[int]
    type: str
    names: _containers.RepeatedScalarFieldContainer[str]
    version_sent: str
    version_acked: str
    version_nacked: str
    nack_detail: str
    nacked_at: _timestamp_pb2.Timestamp
    def __init__(self, type: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., version_sent: _Optional[str] = ..., version_acked: _Optional[str] = ..., version_nacked: _Optional[str] = ..., nack_detail: _Optional[str] = ..., nacked_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListRootsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRootsResponse(_message.Message):
    __slots__ = ("roots", "roll")
    ROOTS_FIELD_NUMBER: _ClassVar[int]
    ROLL_FIELD_NUMBER: _ClassVar[int]
    roots: _containers.RepeatedCompositeFieldContainer[Root]
    roll: RootRoll
    def __init__(self, roots: _Optional[_Iterable[_Union[Root, _Mapping]]] = ..., roll: _Optional[_Union[RootRoll, _Mapping]] = ...) -> None: ...

class RootRoll(_message.Message):
    __slots__ = ("next", "waiting_for", "settle")
    NEXT_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    SETTLE_FIELD_NUMBER: _ClassVar[int]
    next: RollRootRequest.Step
    waiting_for: _containers.RepeatedCompositeFieldContainer[Holder]
    settle: _duration_pb2.Duration
    def __init__(self, next: _Optional[_Union[RollRootRequest.Step, str]] = ..., waiting_for: _Optional[_Iterable[_Union[Holder, _Mapping]]] = ..., settle: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Holder(_message.Message):
    __slots__ = ("spiffe_id", "certificates", "until", "replicas")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    certificates: int
    until: _timestamp_pb2.Timestamp
    replicas: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, spiffe_id: _Optional[str] = ..., certificates: _Optional[int] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., replicas: _Optional[_Iterable[str]] = ...) -> None: ...

class Root(_message.Message):
    __slots__ = ("state", "fingerprint", "not_before", "not_after")
    STATE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    state: str
    fingerprint: str
    not_before: _timestamp_pb2.Timestamp
    not_after: _timestamp_pb2.Timestamp
    def __init__(self, state: _Optional[str] = ..., fingerprint: _Optional[str] = ..., not_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., not_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RollRootRequest(_message.Message):
    __slots__ = ("step",)
    class Step(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STEP_UNSPECIFIED: _ClassVar[RollRootRequest.Step]
        STEP_PREPARE: _ClassVar[RollRootRequest.Step]
        STEP_ACTIVATE: _ClassVar[RollRootRequest.Step]
        STEP_RETIRE: _ClassVar[RollRootRequest.Step]
    STEP_UNSPECIFIED: RollRootRequest.Step
    STEP_PREPARE: RollRootRequest.Step
    STEP_ACTIVATE: RollRootRequest.Step
    STEP_RETIRE: RollRootRequest.Step
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: RollRootRequest.Step
    def __init__(self, step: _Optional[_Union[RollRootRequest.Step, str]] = ...) -> None: ...

class RollRootResponse(_message.Message):
    __slots__ = ("roots", "roll")
    ROOTS_FIELD_NUMBER: _ClassVar[int]
    ROLL_FIELD_NUMBER: _ClassVar[int]
    roots: _containers.RepeatedCompositeFieldContainer[Root]
    roll: RootRoll
    def __init__(self, roots: _Optional[_Iterable[_Union[Root, _Mapping]]] = ..., roll: _Optional[_Union[RootRoll, _Mapping]] = ...) -> None: ...
