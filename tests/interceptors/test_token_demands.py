"""What a token has to claim, and what the method sees of it."""

import dataclasses
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from hauberk.interceptors.call import Call
from hauberk.interceptors.demands import ClaimRule, DeadlineRule, TokenRule
from tests.interceptors.stage import Shape, Stage, call, echo, info, policy
from tests.interceptors.token_calls import UNARY, bearer, logged, refused, seeing, serve
from tests.interceptors.token_forge import ISSUER, Forge

DEMANDS: dict[str, tuple[TokenRule, dict[str, Any], str | None]] = {
    "one of the roles": (TokenRule(roles=("a", "b")), {"roles": ["x", "b"]}, None),
    "none of the roles": (TokenRule(roles=("a", "b")), {"roles": ["x"]}, "ROLE_MISSING"),
    "no roles": (TokenRule(roles=("a",)), {}, "ROLE_MISSING"),
    "roles a text": (TokenRule(roles=("a",)), {"roles": "a"}, "ROLE_MISSING"),
    "roles of numbers": (TokenRule(roles=("1",)), {"roles": [1]}, "ROLE_MISSING"),
    "role in other capitals": (TokenRule(roles=("a",)), {"roles": ["A"]}, "ROLE_MISSING"),
    "all of the scopes": (TokenRule(scopes=("a", "b")), {"scope": "b c a"}, None),
    "one of the scopes": (TokenRule(scopes=("a", "b")), {"scope": "a"}, "SCOPE_MISSING"),
    "part of a scope": (TokenRule(scopes=("a",)), {"scope": "ab"}, "SCOPE_MISSING"),
    "no scope": (TokenRule(scopes=("a",)), {}, "SCOPE_MISSING"),
    "scope a list": (TokenRule(scopes=("a",)), {"scope": ["a"]}, "SCOPE_MISSING"),
    "claim is there": (TokenRule(claims=(ClaimRule("a.b"),)), {"a": {"b": 0}}, None),
    "claim is not there": (TokenRule(claims=(ClaimRule("a.b"),)), {"a": {"c": 0}}, "CLAIM_MISSING"),
    "claim is null": (TokenRule(claims=(ClaimRule("a"),)), {"a": None}, "CLAIM_MISSING"),
    "way through a text": (TokenRule(claims=(ClaimRule("a.b"),)), {"a": "b"}, "CLAIM_MISSING"),
    "claim is one of": (TokenRule(claims=(ClaimRule("a", ("x", "y")),)), {"a": "y"}, None),
    "claim is none of": (TokenRule(claims=(ClaimRule("a", ("x", "y")),)), {"a": "z"}, "CLAIM_MISSING"),
    "list has one of": (TokenRule(claims=(ClaimRule("a", ("x",)),)), {"a": ["z", "x"]}, None),
    "list has none of": (TokenRule(claims=(ClaimRule("a", ("x",)),)), {"a": ["z"]}, "CLAIM_MISSING"),
    "claim true": (TokenRule(claims=(ClaimRule("a", ("true",)),)), {"a": True}, None),
    "claim false": (TokenRule(claims=(ClaimRule("a", ("true",)),)), {"a": False}, "CLAIM_MISSING"),
    "claim one is not true": (TokenRule(claims=(ClaimRule("a", ("true",)),)), {"a": 1}, "CLAIM_MISSING"),
    "whole number": (TokenRule(claims=(ClaimRule("a", ("7",)),)), {"a": 7}, None),
    "claim an object": (TokenRule(claims=(ClaimRule("a", ("x",)),)), {"a": {"x": 1}}, "CLAIM_MISSING"),
    "all claims": (TokenRule(claims=(ClaimRule("a"), ClaimRule("b"))), {"a": 1}, "CLAIM_MISSING"),
}


@pytest.mark.parametrize(("rule", "claims", "reason"), DEMANDS.values(), ids=DEMANDS.keys())
async def test_what_a_token_has_to_claim(
    stage: Stage, forge: Forge, rule: TokenRule, claims: dict[str, Any], reason: str | None
) -> None:
    await serve(stage, forge, dataclasses.replace(rule, bound=False))
    channel, brought = stage.channel(), bearer(forge.token(**claims))
    for _ in range(2):
        if reason is None:
            assert await call(channel, UNARY, metadata=brought) == [b"hello"]
        else:
            assert await refused(channel, metadata=brought) == ("PERMISSION_DENIED", reason)
    assert await logged(stage, 2) == [reason, reason]


async def test_who_may_do_less_is_told_what_is_missing(stage: Stage, forge: Forge, shape: Shape) -> None:
    ran = await serve(stage, forge, TokenRule(roles=("clerk", "admin"), bound=False), shape)
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(), shape, metadata=bearer(forge.token(roles=["customer"])))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.details() == "token has none of the roles admin, clerk"
    assert info(caught.value).metadata["roles"] == "admin, clerk"
    assert not ran


async def test_method_sees_for_whom_it_is_called(stage: Stage, forge: Forge, shape: Shape) -> None:
    seen: list[Call | None] = []
    said = policy("Echo", shape, "*", token=TokenRule(bound=False))
    await stage.serve({"Echo": (shape, seeing(seen, shape), said)}, tokens=forge.tokens())
    brought = bearer(forge.token(sub="alice", tenant={"id": "t-7"}, scope="read write"))
    await call(stage.channel(), shape, metadata=brought)
    (served,) = seen
    assert served is not None
    assert served.token is not None
    assert (served.token.issuer, served.token.subject) == (ISSUER, "alice")
    assert served.token.claims["tenant"]["id"] == "t-7"
    assert served.token.scopes == {"read", "write"}


async def test_token_that_nobody_asked_for_is_not_looked_at(stage: Stage, forge: Forge) -> None:
    seen: list[Call | None] = []
    said = policy("Echo", UNARY, "*")
    await stage.serve({"Echo": (UNARY, seeing(seen, UNARY), said)}, tokens=forge.tokens())
    await call(stage.channel(), UNARY, metadata=bearer("whatever"))
    assert seen[0] is not None
    assert seen[0].token is None


async def test_anonymous_method_may_demand_a_token(stage: Stage, forge: Forge, shape: Shape) -> None:
    """One that is bound to nothing: such a caller has shown nothing to hold it against."""
    ran: list[Any] = []
    said = policy("Echo", shape, anonymous=True, token=TokenRule(bound=False, roles=("customer",)))
    await stage.serve({"Echo": (shape, echo(shape, ran), said)}, tokens=forge.tokens())
    channel = stage.channel("stranger")
    assert await refused(channel, shape) == ("UNAUTHENTICATED", "TOKEN_MISSING")
    bad = bearer(forge.token(key=forge.stranger))
    assert await refused(channel, shape, metadata=bad) == ("UNAUTHENTICATED", "TOKEN_REFUSED")
    good = bearer(forge.token(roles=["customer"]))
    assert await call(channel, shape, metadata=good) == [b"hello"]
    assert len(ran) == 1


async def test_token_is_looked_at_after_caller_and_deadline(stage: Stage, forge: Forge) -> None:
    said = policy(
        "Echo", UNARY, "gateway", deadline=DeadlineRule(required=True), token=TokenRule(roles=("a",))
    )
    await stage.serve({"Echo": (UNARY, echo(UNARY), said)}, tokens=forge.tokens())
    stranger, channel = stage.channel("stranger"), stage.channel("gateway")
    assert (await refused(stranger, within=None))[1] == "CALLER_NOT_ALLOWED"
    assert (await refused(channel, within=None))[1] == "DEADLINE_REQUIRED"
    assert (await refused(channel))[1] == "TOKEN_MISSING"
