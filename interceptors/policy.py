"""What a method demands of its callers, read from the options in its contract.

Plain data: pipeline.py makes checks of it here, the control plane routes and RBAC. The options are those of
hauberk/policy/v1/policy.proto, which says what each means. A field this build does not know is an error: a
demand that cannot be enforced must not look as if it were.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import (
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)

from hauberk.certs.errors import IdentityError
from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.demands import DeadlineRule, MessageBounds, Priority, QuotaKey, QuotaRule, TokenRule
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.unknown_fields import parts, unknown_numbers
from hauberk.protos.hauberk.policy.v1 import policy_pb2

BUILT_IN = "built in"
"""The origin of policies that no contract says."""

_EVERYTHING = "*"
_ANY_TRUST_DOMAIN = "any"  # stands in for the mesh's while a bare path's grammar is checked


class UnknownField(PolicyError):
    """A demand that nobody here could enforce."""


class Idempotency(StrEnum):
    """The contract's `idempotency_level`: whether a call may be repeated."""

    UNKNOWN = "unknown"
    IDEMPOTENT = "idempotent"
    NO_SIDE_EFFECTS = "no_side_effects"


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
    token: TokenRule | None = None
    quotas: tuple[QuotaRule, ...] = ()
    priority: Priority = Priority.NORMAL
    audit: bool = False
    message: MessageBounds = field(default_factory=MessageBounds)
    idempotency: Idempotency = Idempotency.UNKNOWN
    origin: str = "method"
    """Where it was said: "method", "service" (the service's defaults) or "built in"."""
    overridden: tuple[str, ...] = ()
    """The fields that an operator says, and not the contract; see overrides.py."""
    tried: tuple[str, ...] = ()
    """Of these, what is not in force and only tried."""
    shadow: "Policy | None" = None
    """The policy if that were in force."""

    def __post_init__(self) -> None:
        if self.anonymous and self.callers:
            raise PolicyError(f"{self.method}: anonymous excludes callers")
        if self.anonymous and self.token is not None and self.token.bound:
            raise PolicyError(f"{self.method}: anonymous excludes a token bound to a certificate")
        for quota in self.quotas:
            if quota.key is QuotaKey.SUBJECT and self.token is None:
                raise PolicyError(f"{self.method}: quota.key KEY_SUBJECT needs a token")
            if quota.cost and self.request_streaming:
                raise PolicyError(f"{self.method}: quota.cost is not of streamed requests")

    @classmethod
    def of(
        cls,
        demands: policy_pb2.Policy,
        *,
        method: str,
        request_streaming: bool = False,
        response_streaming: bool = False,
        idempotency: Idempotency = Idempotency.UNKNOWN,
        origin: str = "method",
    ) -> Self:
        """What `demands` says of `method` (its path). Raises PolicyError."""
        check_known(demands, f"policy of {method[1:].replace('/', '.')}")
        return cls(
            method=method,
            request_streaming=request_streaming,
            response_streaming=response_streaming,
            idempotency=idempotency,
            origin=origin,
            **demands_of(demands),
        )

    def declared(self) -> policy_pb2.Policy:
        """It as a contract would spell it, nothing left to defaults."""
        return policy_pb2.Policy(
            callers=map(str, self.callers),
            anonymous=self.anonymous,
            deadline=None if self.deadline is None else self.deadline.declared(),
            token=None if self.token is None else self.token.declared(),
            quota=[quota.declared() for quota in self.quotas],
            priority=policy_pb2.Priority.Name(int(self.priority)),
            audit=self.audit,
            message=self.message.declared(),
        )

    def admits(self, caller: SpiffeId, trust_domain: str) -> bool:
        """Whether one of `callers` means `caller`."""
        return self.admitting(caller, trust_domain) is not None

    def admitting(self, caller: SpiffeId, trust_domain: str) -> CallerPattern | None:
        """The first of `callers` that means `caller`."""
        return next((each for each in self.callers if each.matches(caller, trust_domain)), None)


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
        policies[method.name] = policy_of(service, declared, method)
    return policies


def policy_of(service: str, declared: ServiceDescriptorProto, method: MethodDescriptorProto) -> Policy:
    """The policy of one method of `service` (its full name). Raises PolicyError."""
    name = f"{service}.{method.name}"
    demands, origin = _extension(method.options, policy_pb2.policy, name), "method"
    if demands is None:
        demands, origin = _extension(declared.options, policy_pb2.defaults, name), "service"
    if demands is None:
        raise PolicyError(
            f"method has no policy: {name}; write option (hauberk.policy.v1.policy) on it, or "
            "(hauberk.policy.v1.defaults) on its service"
        )
    try:
        return Policy.of(
            demands,
            method=f"/{service}/{method.name}",
            request_streaming=method.client_streaming,
            response_streaming=method.server_streaming,
            idempotency=_idempotency(method.options),
            origin=origin,
        )
    except UnknownField:
        raise
    except PolicyError as error:
        raise PolicyError(f"policy of {name}: {error}") from error


def demands_of(demands: policy_pb2.Policy) -> dict[str, Any]:
    """What `demands` says, as Policy has it, each by itself. Raises PolicyError."""
    return {
        "callers": callers(*demands.callers),
        "anonymous": demands.anonymous,
        "deadline": DeadlineRule.of(demands.deadline) if demands.HasField("deadline") else None,
        "token": TokenRule.of(demands.token) if demands.HasField("token") else None,
        "quotas": tuple(map(QuotaRule.of, demands.quota)),
        "priority": Priority.of(demands.priority),
        "audit": demands.audit,
        "message": MessageBounds.of(demands.message),
    }


def check_known(demands: policy_pb2.Policy, whose: str) -> None:
    """Raise UnknownField where `demands` says what this build does not know."""
    unknown = sorted(number for part in parts(demands) for number in unknown_numbers(part))
    if unknown:
        raise UnknownField(f"{whose} has a field this build does not know: number {unknown[0]}")


def _extension(options: Any, extension: Any, name: str) -> policy_pb2.Policy | None:
    """The policy in these options of `name`, if they hold one."""
    if options.HasExtension(extension):
        found: policy_pb2.Policy = options.Extensions[extension]
        return found
    if extension.number in unknown_numbers(options):  # of another wire type: kept as if nothing had been said
        raise PolicyError(f"policy of {name} cannot be read")
    return None


def _idempotency(options: MethodOptions) -> Idempotency:
    match options.idempotency_level:
        case MethodOptions.IDEMPOTENT:
            return Idempotency.IDEMPOTENT
        case MethodOptions.NO_SIDE_EFFECTS:
            return Idempotency.NO_SIDE_EFFECTS
        case _:
            return Idempotency.UNKNOWN
