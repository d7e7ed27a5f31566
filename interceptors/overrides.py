"""Operators' overrides: demands that take the place of a contract's, or are tried beside them.

An override changes what is demanded of a declared method and never declares one. Where it is tried
(`shadow`), the contract's own demand stays in force, and what the override would have refused is recorded.
"""

import hashlib
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.policy import Policy, check_known, demands_of
from hauberk.protos.hauberk.policy.v1 import override_pb2, policy_pb2

FIELDS = ("callers", "deadline", "token", "quota", "priority", "audit", "message")
"""The fields of a policy that an override may say, in the order in which they are asked."""
TRIED = frozenset({"callers", "deadline", "token", "quota"})
"""Those that refuse by themselves, and so may only be tried."""
MOST = 1000
"""Overrides in one mesh."""
LARGEST = 4000
"""Bytes of one, serialised: all of them fit into what a channel takes at once."""

_ATTRIBUTES = {"quota": "quotas"}
_METHOD = re.compile(r"/[A-Za-z_][\w.]*\.[A-Za-z_]\w*/[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Override:
    """What is demanded of one method in place of its contract. Valid by itself, or PolicyError."""

    method: str
    said: Mapping[str, Any]
    """By field (`FIELDS`), as a Policy has it."""
    shadow: frozenset[str]
    """Those that are only tried."""
    spelled: bytes
    """As it came, serialised; equal for equal overrides."""

    @classmethod
    def of(cls, declared: override_pb2.Override) -> Self:
        """Raises PolicyError: one line that names the method and the field."""
        method = declared.method
        if not _METHOD.fullmatch(method):
            raise PolicyError(f'not a method, as in "/shop.orders.v1.Orders/PlaceOrder": {method!r:.99}')
        try:
            _check_fields(declared)
            check_known(declared.policy, f"override of {method}")
            # Each by itself: what one of them needs, the contract may say.
            said = {name: _demand(declared.policy, name) for name in declared.fields}
        except PolicyError as error:
            raise PolicyError(f"override of {method}: {error}") from None
        spelled = override_pb2.Override()
        spelled.CopyFrom(declared)
        for names in (spelled.fields, spelled.shadow):
            names.sort()
        content = spelled.SerializeToString(deterministic=True)
        if len(content) > LARGEST:
            raise PolicyError(
                f"override of {method}: it has {len(content)} bytes, at most {LARGEST} are taken"
            )
        return cls(method, said, frozenset(declared.shadow), content)

    @property
    def service(self) -> str:
        """The contract's full name."""
        return self.method[1:].partition("/")[0]

    def declared(self) -> override_pb2.Override:
        return override_pb2.Override.FromString(self.spelled)

    def over(self, policy: Policy) -> Policy:
        """`policy`, of this method, as it is overridden. Raises PolicyError where they exclude each other."""
        enforced = {_attribute(name): value for name, value in self.said.items() if name not in self.shadow}
        tried = {_attribute(name): value for name, value in self.said.items() if name in self.shadow}
        try:
            found = replace(
                policy, **enforced, overridden=tuple(name for name in FIELDS if name in self.said)
            )
            if not tried:
                return found
            names = tuple(name for name in FIELDS if name in self.shadow)
            return replace(found, tried=names, shadow=replace(found, **tried))
        except PolicyError as error:
            raise PolicyError(f"override of {error}") from None


@dataclass(frozen=True, slots=True)
class Overrides:
    """All overrides that hold at one time, by method. Replaced whole."""

    by_method: Mapping[str, Override]
    version: str
    """Hash of the content; equal versions are equal overrides."""

    @classmethod
    def of(cls, declared: Iterable[override_pb2.Override]) -> Self:
        """Raises PolicyError if one of them is no override, or two are of one method."""
        found: dict[str, Override] = {}
        for each in declared:
            override = Override.of(each)
            if override.method in found:
                raise PolicyError(f"two overrides of {override.method}")
            found[override.method] = override
        return cls._of(found)

    @classmethod
    def _of(cls, found: Mapping[str, Override]) -> Self:
        if len(found) > MOST:
            raise PolicyError(f"{len(found)} overrides, at most {MOST} are taken")
        digest = hashlib.sha256()
        for method in sorted(found):
            digest.update(found[method].spelled)
        return cls(dict(sorted(found.items())), digest.hexdigest()[:16])

    def declared(self) -> list[override_pb2.Override]:
        return [override.declared() for override in self.by_method.values()]

    def of_services(self, services: Iterable[str]) -> "Overrides":
        """Those of the methods of these services."""
        wanted = frozenset(services)
        return self._of({name: each for name, each in self.by_method.items() if each.service in wanted})

    def over(self, policy: Policy) -> Policy:
        """`policy` as it is overridden, if it is. Raises PolicyError."""
        override = self.by_method.get(policy.method)
        return policy if override is None else override.over(policy)


NONE = Overrides.of(())


def _check_fields(declared: override_pb2.Override) -> None:
    fields, shadow = list(declared.fields), list(declared.shadow)
    if not fields:
        raise PolicyError("it says nothing")
    for name in fields:
        if name not in FIELDS:
            raise PolicyError(f"{name!r:.40} cannot be overridden: {', '.join(FIELDS)}")
    for name in (field.name for field, _ in declared.policy.ListFields()):
        if name not in fields:
            raise PolicyError(f"{name} is set, and not among the fields it says")
    for name in shadow:
        if name not in fields:
            raise PolicyError(f"shadow: {name!r:.40} is not said here")
        if name not in TRIED:
            raise PolicyError(f"shadow: {name} cannot be tried: {', '.join(_in_order(TRIED))}")
    if len({*fields}) < len(fields) or len({*shadow}) < len(shadow):
        raise PolicyError("it names a field twice")


def _in_order(names: Container[str]) -> Iterator[str]:
    return (name for name in FIELDS if name in names)


def _demand(policy: policy_pb2.Policy, name: str) -> Any:
    """The demand in one field of `policy`, read without the others."""
    alone = policy_pb2.Policy()
    alone.CopyFrom(policy)
    for field, _ in policy.ListFields():
        if field.name != name:
            alone.ClearField(field.name)
    return demands_of(alone)[_attribute(name)]


def _attribute(name: str) -> str:
    return _ATTRIBUTES.get(name, name)
