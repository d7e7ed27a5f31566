"""Operators' overrides: each kind in force at once on both servers, tried without refusing, refused whole."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from grpc.aio import AioRpcError

from hauberk.interceptors.access_log import AccessLog
from hauberk.interceptors.audit import AuditLog
from hauberk.interceptors.call import current_call
from hauberk.interceptors.demands import DeadlineRule, Priority, QuotaRule, TokenRule
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.overrides import NONE, Overrides
from hauberk.interceptors.policy import BUILT_IN, Policy, callers
from hauberk.interceptors.spans import Spans
from hauberk.protos.hauberk.policy.v1 import override_pb2, policy_pb2
from tests.interceptors.stage import (
    SERVICE,
    Shape,
    Stage,
    begin,
    call,
    echo,
    info,
    path,
    policy,
)
from tests.interceptors.token_calls import UNARY, bearer
from tests.interceptors.token_forge import Forge

SERVED_BY = ("asyncio", "threaded")


def override(
    demands: Mapping[str, Any], *shadow: str, method: str = path("Echo"), fields: tuple[str, ...] = ()
) -> override_pb2.Override:
    """As mesh.toml would spell it; `fields` besides those set."""
    said = override_pb2.Override(method=method, fields=[*demands, *fields], shadow=shadow)
    ParseDict(dict(demands), said.policy)
    return said


def say(stage: Stage, *declared: override_pb2.Override) -> None:
    """These are in force from now on, and no others."""
    stage.guard.prepare(Overrides.of(declared))()


async def code(stage: Stage, shape: Shape, name: str = "gateway", **how: Any) -> str:
    """How one call ends: OK, or the reason of its refusal."""
    try:
        await call(stage.channel(name), shape, **how)
    except AioRpcError as error:
        return info(error).reason
    return "OK"


OVERRIDES: dict[str, tuple[Mapping[str, Any], tuple[str, ...], str]] = {
    "callers": ({"callers": ["orders"]}, (), "CALLER_NOT_ALLOWED"),
    "nobody": ({}, ("callers",), "CALLER_NOT_ALLOWED"),
    "deadline": ({"deadline": {"required": True}}, (), "DEADLINE_REQUIRED"),
    "token": ({"token": {"bound": False}}, (), "TOKEN_MISSING"),
    "quota": ({"quota": [{"limit": 1, "per": "3600s"}]}, (), "QUOTA_SPENT"),
    "message": ({"message": {"max_bytes": 4}}, (), "MESSAGE_TOO_LARGE"),
}
"""Of each kind that refuses: what it says, and what a call without deadline and token then hears."""


@pytest.mark.parametrize("kind", OVERRIDES)
async def test_an_override_of_each_kind_is_in_force_at_once_and_gone_at_once(
    stage: Stage, shape: Shape, kind: str, forge: Forge
) -> None:
    demands, cleared, reason = OVERRIDES[kind]
    said = {"Echo": (shape, echo(shape), policy("Echo", shape, "gateway"))}
    await stage.serve(said, tokens=forge.tokens())
    assert await code(stage, shape) == "OK"
    say(stage, override(demands, fields=cleared))
    if kind == "quota":
        assert await code(stage, shape) == "OK"
    assert await code(stage, shape, within=None) == reason
    say(stage)
    assert await code(stage, shape, within=None) == "OK"


@pytest.mark.parametrize("kind", ["callers", "deadline", "token", "quota"])
async def test_a_contracts_demand_of_each_kind_can_be_loosened(
    stage: Stage, shape: Shape, kind: str, forge: Forge
) -> None:
    demands: dict[str, Any] = {
        "deadline": DeadlineRule(required=True),
        "token": TokenRule(bound=False),
        "quotas": (QuotaRule(limit=1, per_s=3600, burst=1),),
    }
    which = {name: value for name, value in demands.items() if name.startswith(kind)}
    said = Policy(
        method=path("Echo"),
        request_streaming=shape.requests_stream,
        response_streaming=shape.replies_stream,
        callers=callers("orders" if kind == "callers" else "gateway"),
        **which,
    )
    await stage.serve({"Echo": (shape, echo(shape), said)}, tokens=forge.tokens())
    if kind == "quota":
        assert await code(stage, shape, within=None) == "OK"
    assert await code(stage, shape, within=None) in {value[2] for value in OVERRIDES.values()}
    loose = override({"callers": ["*"]}) if kind == "callers" else override({}, fields=(kind,))
    say(stage, loose)
    assert await code(stage, shape, within=None) == "OK"


async def test_priority_and_audit_are_overridden_too(stage: Stage, tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit", "server")
    guard = stage.new_guard(records=stage.keeping(AccessLog(stage.log, "server"), audit), audit=audit)
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "gateway"))}, guard=guard)
    say(stage, override({"priority": "PRIORITY_LOW", "audit": True}))
    assert stage.guard.policies[path("Echo")].priority is Priority.LOW
    assert await code(stage, UNARY) == "OK"
    lines = (tmp_path / "audit" / "calls.log").read_text().splitlines()
    assert json.loads(lines[0])["event.action"] == "begun"


async def test_a_call_in_flight_keeps_what_it_began_with(stage: Stage) -> None:
    shape = Shape.STREAM_STREAM
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "gateway"))})
    going: Any = begin(stage.channel(), shape, requests=None)
    await going.write(b"one")
    assert await going.read() == b"one"
    say(stage, override({"message": {"max_bytes": 1}, "callers": ["orders"]}))
    await going.write(b"two")
    assert await going.read() == b"two"
    await going.done_writing()
    assert await going.read() is grpc.aio.EOF
    assert await code(stage, shape) == "CALLER_NOT_ALLOWED"


async def test_what_was_spent_of_a_quota_stays_spent_when_something_else_is_overridden(stage: Stage) -> None:
    said = Policy(
        method=path("Echo"), callers=callers("gateway"), quotas=(QuotaRule(limit=2, per_s=3600, burst=2),)
    )
    await stage.serve({"Echo": (UNARY, echo(UNARY), said)})
    assert await code(stage, UNARY) == "OK"
    say(stage, override({"callers": ["*"]}))
    assert await code(stage, UNARY) == "OK"
    assert await code(stage, UNARY) == "QUOTA_SPENT"


TRIED: dict[str, tuple[Mapping[str, Any], str]] = {
    "callers": ({"callers": ["orders"]}, "CALLER_NOT_ALLOWED"),
    "deadline": ({"deadline": {"required": True}}, "DEADLINE_REQUIRED"),
    "token": ({"token": {"roles": ["customer"], "bound": False}}, "TOKEN_MISSING"),
    "quota": ({"quota": [{"limit": 1, "per": "3600s"}]}, "QUOTA_SPENT"),
}


@pytest.mark.parametrize("kind", TRIED)
async def test_in_shadow_the_refusal_is_recorded_and_not_enforced(
    stage: Stage, shape: Shape, kind: str, forge: Forge, tmp_path: Path
) -> None:
    demands, reason = TRIED[kind]
    audit, spans = AuditLog(tmp_path / "audit", "server"), Spans()
    records = stage.keeping(AccessLog(stage.log, "server"), audit, spans)
    said = {"Echo": (shape, echo(shape), policy("Echo", shape, "gateway"))}
    await stage.serve(said, tokens=forge.tokens(), records=records, audit=audit)
    say(stage, override(demands, kind))
    for _ in range(2):  # the quota lets one through
        assert await code(stage, shape, within=None) == "OK"
    line = (await stage.records(2))[1]
    assert (line["grpc.status"], line["error.reason"]) == ("OK", None)
    assert line["hauberk.would_refuse"] == reason
    records.close()
    told = [json.loads(text) for text in (tmp_path / "audit" / "refusals.log").read_text().splitlines()]
    assert (told[-1]["event.action"], told[-1]["hauberk.would_refuse"]) == ("would have refused", reason)
    shown = [{each.key: each.value.string_value for each in span.attributes} for span in spans.next(9)]
    assert shown[-1]["hauberk.would_refuse"] == reason


async def test_a_quota_in_shadow_may_charge_by_the_message(stage: Stage) -> None:
    """With one of the contract's own that does too: neither spends the other's."""
    described = policy_pb2.MessageBounds
    by_bytes = QuotaRule(limit=10, per_s=3600, burst=10, cost="max_bytes")
    said = Policy(method=path("Echo"), callers=callers("gateway"), quotas=(by_bytes,))
    read = described.FromString
    guard = stage.new_guard()
    echoing = stage.method(echo(UNARY), UNARY, read, described.SerializeToString)
    guard.add(SERVICE, {"Echo": echoing}, {"Echo": said})
    stage.guard = guard
    await stage.start(guard)
    tighter = {"quota": [{"limit": 5, "per": "3600s", "cost": "max_bytes"}]}
    say(stage, override(tighter, "quota"))
    outcomes = []
    for cost in (4, 4, 4):
        request = described(max_bytes=cost).SerializeToString()
        outcomes.append(await code(stage, UNARY, requests=[request]))
    assert outcomes == ["OK", "OK", "QUOTA_SPENT"]
    tried = [line.get("hauberk.would_refuse") for line in await stage.records(3)]
    assert tried == [None, "QUOTA_SPENT", None]


async def test_in_shadow_the_contracts_own_demand_stays_in_force(stage: Stage) -> None:
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "orders"))})
    say(stage, override({"callers": ["*"]}, "callers"))
    assert await code(stage, UNARY) == "CALLER_NOT_ALLOWED"
    assert await code(stage, UNARY, "orders") == "OK"
    assert "hauberk.would_refuse" not in (await stage.records(2))[1]


async def test_a_deadline_in_shadow_is_held_against_how_long_the_call_took(stage: Stage) -> None:
    async def slow(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0.2)
        return request

    methods = {"Echo": (UNARY, slow, policy("Echo", UNARY, "gateway"))}
    await stage.serve(methods)
    for longest, outcome in (("0.05s", "DEADLINE_PASSED"), ("9s", None)):
        say(stage, override({"deadline": {"max": longest}}, "deadline"))
        assert await code(stage, UNARY) == "OK"
        assert (await stage.records())[-1].get("hauberk.would_refuse") == outcome
        stage.log.truncate(0)
        stage.log.seek(0)


async def test_a_token_in_shadow_reaches_no_method_and_wears_out_no_patience(
    stage: Stage, forge: Forge
) -> None:
    """Bad ones are not counted with those of demands that are in force."""
    seen: list[Any] = []

    async def look(request: bytes, context: Any) -> bytes:
        found = current_call()
        seen.append(None if found is None else found.token)
        return request

    demanding = policy("Strict", UNARY, "gateway", token=TokenRule(bound=False))
    methods = {
        "Echo": (UNARY, look, policy("Echo", UNARY, "gateway")),
        "Strict": (UNARY, echo(UNARY), demanding),
    }
    await stage.serve(methods, tokens=forge.tokens(failures_per_s=2))
    say(stage, override({"token": {"bound": False}}, "token"))
    channel = stage.channel()
    await call(channel, UNARY, metadata=bearer(forge.token()))
    for number in range(9):
        await call(channel, UNARY, metadata=bearer(forge.token(key=forge.stranger, jti=f"bad-{number}")))
    assert seen == [None] * 10
    again: Any = channel.unary_unary(path("Strict"))
    assert await again(b"x", metadata=bearer(forge.token(jti="good")), timeout=5) == b"x"


BROKEN: dict[str, tuple[override_pb2.Override, str]] = {
    "no method": (override({"callers": ["*"]}, method="orders"), "not a method"),
    "unknown method": (override({"callers": ["*"]}, method=path("Ecko")), "its contract has no such method"),
    "nothing": (override({}), "it says nothing"),
    "unknown field": (override({}, fields=("calers",)), "'calers' cannot be overridden: callers, deadline"),
    "anonymous": (override({"anonymous": True}), "'anonymous' cannot be overridden"),
    "a caller": (override({"callers": ["Gate way"]}), "not a caller: 'Gate way'"),
    "a deadline": (override({"deadline": {"max": "0s"}}), "deadline.max is not a positive duration"),
    "excluding": (override({"deadline": {"max": "1s", "default": "2s"}}), "is longer than deadline.max"),
    "a quota": (override({"quota": [{"limit": 0, "per": "1s"}]}), "quota.limit is not 1 to"),
    "subject": (override({"quota": [{"limit": 1, "per": "1s", "key": "KEY_SUBJECT"}]}), "needs a token"),
    "cost": (
        override({"quota": [{"limit": 1, "per": "1s", "cost": "n"}]}),
        "needs a message that its contract",
    ),
    "no issuer": (override({"token": {}}), "demands a token, but this process believes no issuer"),
    "audit": (override({"audit": True}), "there is no audit log here"),
    "a larger message": (override({"message": {"max_bytes": 2**22}}), "restart it to take more"),
    "shadow": (override({"callers": ["*"]}, "token"), "shadow: 'token' is not said here"),
    "shadow of what refuses nothing": (override({"audit": True}, "audit"), "shadow: audit cannot be tried"),
    "large": (override({"callers": ["a" * 60 + f"/{n}" for n in range(99)]}), "at most 4000 are taken"),
    "twice": (override({"callers": ["*"]}, fields=("callers",)), "names a field twice"),
    "unsaid": (
        override_pb2.Override(method=path("Echo"), fields=["token"], policy={"audit": True}),
        "audit is set",
    ),
}


@pytest.mark.parametrize("which", BROKEN)
async def test_a_broken_override_is_refused_whole_and_the_last_good_stays(stage: Stage, which: str) -> None:
    broken, complaint = BROKEN[which]
    methods = {name: (UNARY, echo(UNARY), policy(name, UNARY, "gateway")) for name in ("Echo", "Other")}
    await stage.serve(methods)
    stage.guard.opened(stage.guard.largest_message)
    say(stage, override({"callers": ["orders"]}))
    with pytest.raises(PolicyError) as caught:
        say(stage, override({"callers": ["nobody"]}, method=path("Other")), broken)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert await code(stage, UNARY, "orders") == "OK"
    assert await code(stage, UNARY, "gateway") == "CALLER_NOT_ALLOWED"
    other: Any = stage.channel().unary_unary(path("Other"))
    assert await other(b"x", timeout=5) == b"x"


async def test_no_override_makes_an_undeclared_method_callable(stage: Stage) -> None:
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "gateway"))})
    elsewhere = override({"callers": ["*"]}, method="/lab.v1.Other/Echo")
    say(stage, elsewhere)
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(), UNARY, "/lab.v1.Other/Echo")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_what_every_server_offers_cannot_be_overridden(stage: Stage) -> None:
    guard = stage.new_guard()
    built_in = Policy(method=path("Echo"), callers=callers("*"), origin=BUILT_IN)
    await stage.serve({"Echo": (UNARY, echo(UNARY), built_in)}, guard=guard)
    with pytest.raises(PolicyError, match="what every server offers cannot be overridden"):
        say(stage, override({"callers": ["orders"]}))


def test_equal_overrides_have_equal_versions() -> None:
    one = override({"callers": ["a"], "audit": True})
    two = override({"audit": True, "callers": ["a"]})
    three = override({"callers": ["b"], "audit": True})
    assert Overrides.of([one]).version == Overrides.of([two]).version != Overrides.of([three]).version
    assert Overrides.of(Overrides.of([one]).declared()).version == Overrides.of([one]).version
    assert Overrides.of([one]).of_services(["elsewhere.v1.X"]).version == NONE.version
