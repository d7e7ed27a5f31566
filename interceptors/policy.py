"""What a method demands of its callers, read from the options in its contract.

Plain data: pipeline.py makes checks of it here, the control plane routes and RBAC. The options are those of
hauberk/policy/v1/policy.proto, which says what each means. A field this build does not know is an error: a
demand that cannot be enforced must not look as if it were.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import (
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from hauberk.certs.errors import IdentityError
from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.errors import PolicyError
from hauberk.protos.hauberk.policy.v1 import policy_pb2

LONGEST_S = 315_576_000_000
"""The end of google.protobuf.Duration: ten thousand years, which our clocks can still add to."""

MOST_BYTES = 2**30
"""Of a message: protobuf reads at most twice as much."""
MOST_ITEMS = 10_000_000

_EVERYTHING = "*"
_ANY_TRUST_DOMAIN = "any"  # stands in for the mesh's while a bare path's grammar is checked


class Idempotency(StrEnum):
    """The contract's `idempotency_level`: whether a call may be repeated."""

    UNKNOWN = "unknown"
    IDEMPOTENT = "idempotent"
    NO_SIDE_EFFECTS = "no_side_effects"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlineRule:
    """How long a call may take, in seconds; None where the contract is silent."""

    required: bool = False
    default_s: float | None = None
    max_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageBounds:
    """How large one message of the caller may be: see interceptors/message.py."""

    max_bytes: int = 256 * 1024
    max_items: int = 10_000

    def __post_init__(self) -> None:
        for name, most in (("max_bytes", MOST_BYTES), ("max_items", MOST_ITEMS)):
            if not 0 < getattr(self, name) <= most:
                raise PolicyError(f"message.{name} is not 1 to {most}: {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class CallerPattern:
    """One entry of `callers`: a workload path or a whole SPIFFE ID, or everything below one.

    `trust_domain` None means the mesh's own. With `below`, `path` ends in "/" and every ID that goes on from
    it, at any depth, matches; without, `path` is the one that does.
    """

    trust_domain: str | None
    path: str
    below: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """ "a/b", "a/*", "*", or the same after "spiffe://trust-domain/". Raises PolicyError."""
        whole = text.startswith("spiffe://")
        stem, below = (text[:-1], True) if text == _EVERYTHING or text.endswith("/*") else (text, False)
        spelled = (stem if whole else f"spiffe://{_ANY_TRUST_DOMAIN}/{stem}") + ("x" if below else "")
        try:
            found = SpiffeId.parse(spelled)
        except IdentityError as error:
            raise PolicyError(f"not a caller: {text!r:.99} ({error})") from error
        return cls(found.trust_domain if whole else None, found.path[:-1] if below else found.path, below)

    def matches(self, caller: SpiffeId, trust_domain: str) -> bool:
        """Whether `caller` is meant, in a mesh of this `trust_domain`."""
        if caller.trust_domain != (self.trust_domain or trust_domain):
            return False
        return caller.path.startswith(self.path) if self.below else caller.path == self.path

    def __str__(self) -> str:
        path = f"{self.path}*" if self.below else self.path
        return path[1:] if self.trust_domain is None else f"spiffe://{self.trust_domain}{path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one method demands. `method` is its path on the wire, "/package.Service/Method"."""

    method: str
    request_streaming: bool = False
    response_streaming: bool = False
    callers: tuple[CallerPattern, ...] = ()
    """Empty: nobody may call."""
    anonymous: bool = False
    deadline: DeadlineRule | None = None
    message: MessageBounds = MessageBounds()
    idempotency: Idempotency = Idempotency.UNKNOWN
    origin: str = "method"
    """Where it was said: "method", "service" (the service's defaults) or "built in"."""

    def __post_init__(self) -> None:
        if self.anonymous and self.callers:
            raise PolicyError(f"{self.method}: anonymous excludes callers")

    def admits(self, caller: SpiffeId, trust_domain: str) -> bool:
        """Whether one of `callers` means `caller`."""
        return any(pattern.matches(caller, trust_domain) for pattern in self.callers)


def callers(*patterns: str) -> tuple[CallerPattern, ...]:
    """The patterns parsed, for policies written in code."""
    return tuple(CallerPattern.parse(pattern) for pattern in patterns)


def policies_of(service: ServiceDescriptor) -> dict[str, Policy]:
    """The policy of each method of `service`, by the method's name. Raises PolicyError naming the method."""
    declared = ServiceDescriptorProto()
    service.CopyToProto(declared)
    return _policies(service.full_name, declared)


def policies_of_proto(files: FileDescriptorSet) -> dict[str, dict[str, Policy]]:
    """The same for every service in `files`, by the service's full name: data only, nothing joins a pool."""
    found: dict[str, dict[str, Policy]] = {}
    for file in files.file:
        for declared in file.service:
            name = f"{file.package}.{declared.name}" if file.package else declared.name
            if name in found:
                raise PolicyError(f"service is described twice: {name}")
            found[name] = _policies(name, declared)
    return found


def _policies(service: str, declared: ServiceDescriptorProto) -> dict[str, Policy]:
    policies: dict[str, Policy] = {}
    for method in declared.method:
        if method.name in policies:
            raise PolicyError(f"method is described twice: {service}.{method.name}")
        policies[method.name] = _policy(service, declared, method)
    return policies


def _policy(service: str, declared: ServiceDescriptorProto, method: MethodDescriptorProto) -> Policy:
    name = f"{service}.{method.name}"
    demands, origin = _extension(method.options, policy_pb2.policy, name), "method"
    if demands is None:
        demands, origin = _extension(declared.options, policy_pb2.defaults, name), "service"
    if demands is None:
        raise PolicyError(
            f"method has no policy: {name}; write option (hauberk.policy.v1.policy) on it, or "
            "(hauberk.policy.v1.defaults) on its service"
        )
    unknown = sorted(_unknown_fields(demands))
    if unknown:
        raise PolicyError(f"policy of {name} has a field this build does not know: number {unknown[0]}")
    try:
        return Policy(
            method=f"/{service}/{method.name}",
            request_streaming=method.client_streaming,
            response_streaming=method.server_streaming,
            callers=callers(*demands.callers),
            anonymous=demands.anonymous,
            deadline=_deadline(demands.deadline) if demands.HasField("deadline") else None,
            message=_message(demands.message),
            idempotency=_idempotency(method.options),
            origin=origin,
        )
    except PolicyError as error:
        raise PolicyError(f"policy of {name}: {error}") from error


def _extension(options: Any, extension: Any, name: str) -> policy_pb2.Policy | None:
    """The policy in these options of `name`, if they hold one."""
    if options.HasExtension(extension):
        found: policy_pb2.Policy = options.Extensions[extension]
        return found
    if extension.number in _unknown_numbers(
        options
    ):  # of another wire type: kept as if nothing had been said
        raise PolicyError(f"policy of {name} cannot be read")
    return None


def _unknown_fields(message: Message) -> Iterable[int]:
    """The numbers of fields in `message`, or anywhere inside it, that our copy of its type does not have."""
    yield from _unknown_numbers(message)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                yield from _unknown_fields(part)


def _unknown_numbers(message: Message) -> list[int]:
    unknown = UnknownFieldSet(message)
    return [unknown[index].field_number for index in range(len(unknown))]


def _deadline(declared: policy_pb2.Deadline) -> DeadlineRule:
    rule = DeadlineRule(
        required=declared.required,
        default_s=_seconds(declared.default, "default") if declared.HasField("default") else None,
        max_s=_seconds(declared.max, "max") if declared.HasField("max") else None,
    )
    if rule.required and rule.default_s is not None:
        raise PolicyError("deadline.required excludes deadline.default")
    if rule.default_s is not None and rule.max_s is not None and rule.default_s > rule.max_s:
        raise PolicyError(
            f"deadline.default {rule.default_s:g} s is longer than deadline.max {rule.max_s:g} s"
        )
    return rule


def _message(declared: policy_pb2.MessageBounds) -> MessageBounds:
    return MessageBounds(**{field.name: value for field, value in declared.ListFields()})


def _seconds(duration: Duration, field: str) -> float:
    seconds = duration.seconds + duration.nanos / 1e9
    if not 0 <= duration.nanos < 1_000_000_000 or not 0 < seconds <= LONGEST_S:
        raise PolicyError(f"deadline.{field} is not a positive duration: {seconds:g} s")
    return seconds


def _idempotency(options: MethodOptions) -> Idempotency:
    match options.idempotency_level:
        case MethodOptions.IDEMPOTENT:
            return Idempotency.IDEMPOTENT
        case MethodOptions.NO_SIDE_EFFECTS:
            return Idempotency.NO_SIDE_EFFECTS
        case _:
            return Idempotency.UNKNOWN
