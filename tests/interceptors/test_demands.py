"""The demands of a policy as a contract spells them: read whole, spelled again, or refused by name."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import text_format

from hauberk.interceptors.demands import (
    ClaimRule,
    Priority,
    QuotaKey,
    QuotaRule,
    TokenRule,
)
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.policy import Policy
from hauberk.protos.hauberk.policy.v1 import policy_pb2
from tests.interceptors.test_policy import contract, read


def said(text: str, **method: Any) -> Policy:
    return read(contract(text_format.Parse(text, policy_pb2.Policy()), **method))


def test_token_is_read_whole() -> None:
    assert said(
        """callers: "gateway" token {
            roles: "customer" roles: "clerk" scopes: "orders:write" bound: false
            claims { path: "realm_access.level" values: "gold" } claims { path: "tenant" }
            pass_on: "shop.payments.v1.Payments" }"""
    ).token == TokenRule(
        roles=("customer", "clerk"),
        scopes=("orders:write",),
        claims=(ClaimRule("realm_access.level", ("gold",)), ClaimRule("tenant")),
        bound=False,
        pass_on=("shop.payments.v1.Payments",),
    )


def test_token_is_bound_unless_the_contract_says_no_aloud() -> None:
    assert said('callers: "*"').token is None
    assert said('callers: "*" token {}').token == TokenRule(bound=True)


def test_quotas_are_read_whole_and_each_is_kept() -> None:
    policy = said(
        """callers: "*" token {}
        quota { limit: 50 per { seconds: 1 } burst: 100 key: KEY_SUBJECT }
        quota { limit: 1000 per { seconds: 60 } cost: "page.size" }
        quota { limit: 5 per { nanos: 500000000 } key: KEY_HEADER header: "x-tenant" }"""
    )
    assert policy.quotas == (
        QuotaRule(limit=50, per_s=1, burst=100, key=QuotaKey.SUBJECT),
        QuotaRule(limit=1000, per_s=60, burst=1000, key=QuotaKey.CALLER, cost="page.size"),
        QuotaRule(limit=5, per_s=0.5, burst=5, key=QuotaKey.HEADER, header="x-tenant"),
    )


def test_priority_and_audit_are_read() -> None:
    assert said('callers: "*"').priority is Priority.NORMAL
    assert not said('callers: "*"').audit
    policy = said('callers: "*" priority: PRIORITY_LOW audit: true')
    assert (policy.priority, policy.audit) == (Priority.LOW, True)
    assert said('callers: "*" priority: PRIORITY_HIGH').priority is Priority.HIGH


@pytest.mark.parametrize(
    "text",
    [
        'callers: "*"',
        'callers: "a/*" callers: "b" deadline { required: true max { seconds: 3 } }',
        'anonymous: true token { bound: false } quota { limit: 1 per { seconds: 1 } key: KEY_METHOD }',
        """callers: "*" token { roles: "r" scopes: "s" claims { path: "a.b" values: "c" } pass_on: "x.v1.Y" }
        quota { limit: 1 per { seconds: 1 } key: KEY_SUBJECT } quota { limit: 2 per { seconds: 1 } cost: "n" }
        quota { limit: 9 per { nanos: 1000000 } burst: 99 key: KEY_HEADER header: "x-a" }
        priority: PRIORITY_HIGH audit: true message { max_bytes: 7 max_items: 9 }""",
    ],
)  # fmt: skip
def test_policy_spelled_again_is_the_same(text: str) -> None:
    policy = said(text)
    assert read(contract(policy.declared())) == policy


def _token(text: str) -> str:
    return f'callers: "*" token {{ {text} }}'


def _quota(text: str) -> str:
    return f'callers: "*" quota {{ limit: 1 per {{ seconds: 1 }} {text} }}'


def _whole(text: str) -> str:
    return text


@pytest.mark.parametrize(
    ("spelled", "text", "why"),
    [
        (_token, 'roles: ""', "token.roles has an empty one"),
        (_token, 'scopes: "two words"', "token.scopes: not a scope: 'two words'"),
        (_token, 'scopes: ""', "token.scopes: not a scope: ''"),
        (_token, 'claims { values: "x" }', "token.claims.path is no name"),
        (_token, 'claims { path: "a..b" }', "token.claims.path is no name"),
        (_token, 'pass_on: "/shop.Orders/Get"', "token.pass_on: not a contract's full name"),
        (_whole, "anonymous: true token {}", "anonymous excludes a token bound to a certificate"),
        (_whole, 'callers: "*" quota { per { seconds: 1 } }', "quota.limit is not 1 to 1000000000: 0"),
        (_whole, 'callers: "*" quota { limit: 5 }', "quota.per is not a positive duration"),
        (_whole, 'callers: "*" quota { limit: 5 per { seconds: 99999999 } }', "quota.per is longer than"),
        (_quota, "burst: 1000000001", "quota.burst is not 1 to"),
        (_quota, "key: KEY_SUBJECT", "KEY_SUBJECT needs a token"),
        (_quota, "key: KEY_HEADER", "quota.header belongs to key: KEY_HEADER"),
        (_quota, 'header: "x-a"', "quota.header belongs to key: KEY_HEADER"),
        (_quota, 'key: KEY_HEADER header: "X-A"', "no header of text in lower case: 'X-A'"),
        (_quota, 'key: KEY_HEADER header: "x-bin"', "no header of text in lower case: 'x-bin'"),
        (_quota, 'cost: "a."', "quota.cost is no field of a request: 'a.'"),
    ],
)
def test_demand_that_cannot_be_meant_is_refused(spelled: Callable[[str], str], text: str, why: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(why)) as refused:
        said(spelled(text))
    assert "lab.v1.Lab.Try" in str(refused.value)


def test_cost_is_not_of_streamed_requests() -> None:
    with pytest.raises(PolicyError, match=r"quota\.cost is not of streamed requests"):
        said(_quota('cost: "size"'), client_streaming=True)


@pytest.mark.parametrize(
    "wire",
    [b"\x30\x07", b"\x2a\x08\x08\x01\x12\x02\x08\x01\x20\x09"],
    ids=["priority 7", "quota.key 9"],
)
def test_choice_this_build_does_not_know_is_refused(wire: bytes) -> None:
    with pytest.raises(PolicyError, match=r"lab\.v1\.Lab\.Try.*none this build knows"):
        read(contract(b"\x0a\x01*" + wire))
