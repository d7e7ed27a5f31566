"""The demands that a policy is made of, each read from its message in hauberk/policy/v1/policy.proto.

Plain data, valid or PolicyError. policy.proto says what each means.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, IntEnum
from typing import Self

from google.protobuf.duration_pb2 import Duration

from hauberk.interceptors.errors import PolicyError
from hauberk.protos.hauberk.policy.v1 import policy_pb2

LONGEST_S = 315_576_000_000
"""The end of google.protobuf.Duration: ten thousand years, which our clocks can still add to."""

MOST_BYTES = 2**30
"""Of a message: protobuf reads at most twice as much."""
MOST_ITEMS = 10_000_000

MOST_CALLS = 10**9
"""Of a quota, in its time or at once."""
LONGEST_QUOTA_S = 366 * 86400

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749, section 3.3
_HEADER = re.compile(r"[a-z0-9_.-]+")
_PATH = re.compile(r"[^.\s]+(\.[^.\s]+)*")
_SERVICE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlineRule:
    """How long a call may take, in seconds; None where the contract is silent."""

    required: bool = False
    default_s: float | None = None
    max_s: float | None = None

    def __post_init__(self) -> None:
        if self.required and self.default_s is not None:
            raise PolicyError("deadline.required excludes deadline.default")
        if self.default_s is not None and self.max_s is not None and self.default_s > self.max_s:
            raise PolicyError(
                f"deadline.default {self.default_s:g} s is longer than deadline.max {self.max_s:g} s"
            )

    @classmethod
    def of(cls, declared: policy_pb2.Deadline) -> Self:
        return cls(
            required=declared.required,
            default_s=_seconds(declared.default, "deadline.default")
            if declared.HasField("default")
            else None,
            max_s=_seconds(declared.max, "deadline.max") if declared.HasField("max") else None,
        )

    def declared(self) -> policy_pb2.Deadline:
        return policy_pb2.Deadline(
            required=self.required,
            max=None if self.max_s is None else timedelta(seconds=self.max_s),
            default=None if self.default_s is None else timedelta(seconds=self.default_s),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageBounds:
    """How large one message of the caller may be: see interceptors/message.py."""

    max_bytes: int = 256 * 1024
    max_items: int = 10_000

    def __post_init__(self) -> None:
        for name, most in (("max_bytes", MOST_BYTES), ("max_items", MOST_ITEMS)):
            if not 0 < getattr(self, name) <= most:
                raise PolicyError(f"message.{name} is not 1 to {most}: {getattr(self, name)}")

    @classmethod
    def of(cls, declared: policy_pb2.MessageBounds) -> Self:
        return cls(**{field.name: value for field, value in declared.ListFields()})

    def declared(self) -> policy_pb2.MessageBounds:
        return policy_pb2.MessageBounds(max_bytes=self.max_bytes, max_items=self.max_items)


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """A claim that a token must have: names to go down by, and what it may be; no `values`: anything."""

    path: str
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.path):
            raise PolicyError(f"token.claims.path is no name, and no names joined by '.': {self.path!r:.99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRule:
    """The access token a call has to bring."""

    roles: tuple[str, ...] = ()
    """One of these."""
    scopes: tuple[str, ...] = ()
    """All of these."""
    claims: tuple[ClaimRule, ...] = ()
    bound: bool = True
    """To the caller's certificate."""
    pass_on: tuple[str, ...] = ()
    """Contracts that are called with the same token."""

    def __post_init__(self) -> None:
        for role in self.roles:
            if not role:
                raise PolicyError("token.roles has an empty one")
        for scope in self.scopes:
            if not _SCOPE.fullmatch(scope):
                raise PolicyError(f"token.scopes: not a scope: {scope!r:.99}")
        for contract in self.pass_on:
            if not _SERVICE.fullmatch(contract):
                raise PolicyError(f"token.pass_on: not a contract's full name: {contract!r:.99}")

    @classmethod
    def of(cls, declared: policy_pb2.Token) -> Self:
        return cls(
            roles=tuple(declared.roles),
            scopes=tuple(declared.scopes),
            claims=tuple(ClaimRule(claim.path, tuple(claim.values)) for claim in declared.claims),
            bound=declared.bound if declared.HasField("bound") else True,
            pass_on=tuple(declared.pass_on),
        )

    def declared(self) -> policy_pb2.Token:
        return policy_pb2.Token(
            roles=self.roles,
            scopes=self.scopes,
            claims=[policy_pb2.Claim(path=claim.path, values=claim.values) for claim in self.claims],
            bound=self.bound,
            pass_on=self.pass_on,
        )


class QuotaKey(Enum):
    """What the calls of a quota are counted by."""

    CALLER = "caller"
    SUBJECT = "subject"
    METHOD = "method"
    HEADER = "header"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRule:
    """`limit` calls, or units of cost, in `per_s` seconds, `burst` of them at once, for each key."""

    limit: int
    per_s: float
    burst: int
    key: QuotaKey = QuotaKey.CALLER
    header: str = ""
    """In lower case; with QuotaKey.HEADER alone."""
    cost: str = ""
    """The request's field that says what a call costs; empty: 1."""

    def __post_init__(self) -> None:
        for name in ("limit", "burst"):
            if not 1 <= getattr(self, name) <= MOST_CALLS:
                raise PolicyError(f"quota.{name} is not 1 to {MOST_CALLS}: {getattr(self, name)}")
        if self.per_s > LONGEST_QUOTA_S:
            raise PolicyError(f"quota.per is longer than {LONGEST_QUOTA_S} s: {self.per_s:g} s")
        if (self.key is QuotaKey.HEADER) != bool(self.header):
            raise PolicyError("quota.header belongs to key: KEY_HEADER, and only to it")
        if self.header and (not _HEADER.fullmatch(self.header) or self.header.endswith("-bin")):
            raise PolicyError(f"quota.header is no header of text in lower case: {self.header!r:.99}")
        if self.cost and not _PATH.fullmatch(self.cost):
            raise PolicyError(f"quota.cost is no field of a request: {self.cost!r:.99}")

    @classmethod
    def of(cls, declared: policy_pb2.Quota) -> Self:
        if declared.key not in _QUOTA_KEYS:
            raise PolicyError(f"quota.key is none this build knows: {declared.key}")
        return cls(
            limit=declared.limit,
            per_s=_seconds(declared.per, "quota.per"),
            burst=declared.burst or declared.limit,
            key=_QUOTA_KEYS[declared.key],
            header=declared.header,
            cost=declared.cost,
        )

    def declared(self) -> policy_pb2.Quota:
        return policy_pb2.Quota(
            limit=self.limit,
            per=timedelta(seconds=self.per_s),
            burst=self.burst,
            key=f"KEY_{self.key.name}",
            header=self.header,
            cost=self.cost,
        )


_QUOTA_KEYS = {
    policy_pb2.Quota.KEY_UNSPECIFIED: QuotaKey.CALLER,
    policy_pb2.Quota.KEY_CALLER: QuotaKey.CALLER,
    policy_pb2.Quota.KEY_SUBJECT: QuotaKey.SUBJECT,
    policy_pb2.Quota.KEY_METHOD: QuotaKey.METHOD,
    policy_pb2.Quota.KEY_HEADER: QuotaKey.HEADER,
}


class Priority(IntEnum):
    """What is shed first under overload: the lower number."""

    LOW = 1
    NORMAL = 2
    HIGH = 3

    @classmethod
    def of(cls, declared: int) -> Self:
        if declared == policy_pb2.PRIORITY_UNSPECIFIED:
            return cls(policy_pb2.PRIORITY_NORMAL)
        try:
            return cls(declared)
        except ValueError:
            raise PolicyError(f"priority is none this build knows: {declared}") from None


def _seconds(duration: Duration, field: str) -> float:
    seconds = duration.seconds + duration.nanos / 1e9
    if not 0 <= duration.nanos < 1_000_000_000 or not 0 < seconds <= LONGEST_S:
        raise PolicyError(f"{field} is not a positive duration: {seconds:g} s")
    return seconds
