"""Quotas through a real server: who is refused, what it is told, and what a refusal costs nobody."""

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status
from grpc.aio import AioRpcError

from hauberk.interceptors.demands import QuotaKey, QuotaRule
from hauberk.interceptors.errors import DETAILS_KEY, PUSHBACK_KEY, PolicyError
from hauberk.interceptors.policy import Policy
from hauberk.protos.hauberk.policy.v1 import policy_pb2
from hauberk.protos.shop.catalog.v1 import catalog_pb2
from tests.interceptors.stage import SERVICE, Shape, Stage, call, echo, info, path, policy

HOUR = 3600.0
UNARY = Shape.UNARY_UNARY


def limited(shape: Shape, *rules: QuotaRule, name: str = "Echo", anonymous: bool = False) -> Policy:
    said = policy(name, shape, *(() if anonymous else ("*",)), anonymous=anonymous)
    return dataclasses.replace(said, quotas=rules)


def rule(limit: int, **more: Any) -> QuotaRule:
    return QuotaRule(**{"limit": limit, "per_s": HOUR, "burst": limit, **more})


def found(error: AioRpcError, kind: Any) -> Any:
    """The one detail of this kind that the refusal carries."""
    trailers = dict(error.trailing_metadata() or ())
    status = Status.FromString(trailers[DETAILS_KEY])
    (detail,) = [each for each in status.details if each.Is(kind.DESCRIPTOR)]
    unpacked = kind()
    assert detail.Unpack(unpacked)
    return unpacked


async def refused(stage: Stage, shape: Shape = UNARY, caller: str = "gateway", **how: Any) -> AioRpcError:
    with pytest.raises(AioRpcError) as caught:
        await call(stage.guarded(caller), shape, **how)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, caught.value.details()
    return caught.value


async def test_call_past_its_quota_is_told_which_and_how_long_to_wait(stage: Stage, shape: Shape) -> None:
    seen: list[Any] = []
    await stage.serve({"Echo": (shape, echo(shape, seen), limited(shape, rule(2)))})
    channel = stage.channel()
    for _ in range(2):
        assert await call(channel, shape) == [b"hello"]
    error = await refused(stage, shape)
    assert info(error).reason == "QUOTA_SPENT"
    assert error.details() == "quota is spent: 2 calls in 3600 s, 2 at once, by caller"
    (violation,) = found(error, QuotaFailure).violations
    assert (violation.subject, violation.description) == ("caller", "2 calls in 3600 s, 2 at once, by caller")
    wait_s = found(error, RetryInfo).retry_delay.ToTimedelta().total_seconds()
    assert HOUR / 2 - 60 < wait_s < HOUR / 2
    pushback_ms = int(dict(error.trailing_metadata() or ())[PUSHBACK_KEY])
    assert 0 <= pushback_ms - wait_s * 1000 <= 1
    assert len(seen) == 2
    assert (await stage.records(3))[2]["error.reason"] == "QUOTA_SPENT"


async def test_callers_have_a_quota_each(stage: Stage) -> None:
    await stage.serve({"Echo": (UNARY, echo(UNARY), limited(UNARY, rule(1)))})
    await call(stage.channel("gateway"), UNARY)
    await refused(stage, caller="gateway")
    assert await call(stage.channel("orders"), UNARY) == [b"hello"]
    assert "gateway" not in str(await refused(stage, caller="orders"))


async def test_callers_without_a_certificate_are_told_apart_by_address(stage: Stage) -> None:
    said = limited(UNARY, rule(1), anonymous=True)
    await stage.serve({"Echo": (UNARY, echo(UNARY), said)})
    await call(stage.channel(), UNARY)
    await refused(stage)


async def test_quota_of_a_method_is_shared_by_its_callers_and_with_no_other_method(stage: Stage) -> None:
    of_all = rule(1, key=QuotaKey.METHOD)
    await stage.serve(
        {
            "Echo": (UNARY, echo(UNARY), limited(UNARY, of_all)),
            "Other": (UNARY, echo(UNARY), limited(UNARY, of_all, name="Other")),
        }
    )
    await call(stage.channel("gateway"), UNARY)
    await refused(stage, caller="orders")
    assert await call(stage.channel("orders"), UNARY, "Other") == [b"hello"]


async def test_header_tells_calls_of_one_caller_apart(stage: Stage) -> None:
    by_tenant = rule(1, key=QuotaKey.HEADER, header="x-tenant")
    await stage.serve({"Echo": (UNARY, echo(UNARY), limited(UNARY, by_tenant))})
    long = "t" * 2000
    for tenant in ("a", "b", long, long[:-1]):
        assert await call(stage.channel(), UNARY, metadata=[("x-tenant", tenant)])
        error = await refused(stage, metadata=[("x-tenant", tenant)])
        assert found(error, QuotaFailure).violations[0].subject == "header"
    await call(stage.channel(), UNARY)
    await refused(stage, metadata=[("x-tenant", "")])
    assert await call(stage.channel("orders"), UNARY, metadata=[("x-tenant", "a")])


async def test_call_refused_by_one_rule_spends_nothing_of_the_others(stage: Stage) -> None:
    rules = (rule(2), rule(1, key=QuotaKey.HEADER, header="x-tenant"))
    await stage.serve({"Echo": (UNARY, echo(UNARY), limited(UNARY, *rules))})
    await call(stage.channel(), UNARY, metadata=[("x-tenant", "a")])
    for _ in range(5):
        error = await refused(stage, metadata=[("x-tenant", "a")])
        assert [each.subject for each in found(error, QuotaFailure).violations] == ["header"]
    await call(stage.channel(), UNARY, metadata=[("x-tenant", "b")])
    error = await refused(stage, metadata=[("x-tenant", "b")])
    assert [each.subject for each in found(error, QuotaFailure).violations] == ["caller", "header"]


async def test_call_that_is_refused_for_another_reason_spends_nothing(stage: Stage) -> None:
    said = dataclasses.replace(limited(UNARY, rule(1, key=QuotaKey.METHOD)), callers=())
    said = dataclasses.replace(said, callers=policy("Echo", UNARY, "gateway").callers)
    await stage.serve({"Echo": (UNARY, echo(UNARY), said)})
    for how in ({"caller": "orders"}, {"metadata": [("hauberk-unknown", "x")]}):
        with pytest.raises(AioRpcError) as caught:
            await call(stage.channel(how.pop("caller", "gateway")), UNARY, **how)  # type: ignore[arg-type]
        assert caught.value.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await call(stage.channel("gateway"), UNARY) == [b"hello"]


def priced(cost: str, **handler: Any) -> dict[str, Any]:
    """One method that is sent messages without rules, and charges by a field of them."""

    async def one(request: policy_pb2.Quota, context: Any) -> bytes:
        return b""

    async def many(request: policy_pb2.Quota, context: Any) -> AsyncIterator[bytes]:
        yield b""

    read = handler.get("read", policy_pb2.Quota.FromString)
    return {
        "handlers": {
            "Echo": grpc.unary_unary_rpc_method_handler(one, read, bytes),
            "Many": grpc.unary_stream_rpc_method_handler(many, read, bytes),
        },
        "policies": {
            "Echo": limited(UNARY, rule(100, cost=cost), rule(5)),
            "Many": limited(Shape.UNARY_STREAM, rule(100, cost=cost), name="Many"),
        },
    }


@pytest.mark.parametrize("shape", [UNARY, Shape.UNARY_STREAM])
async def test_call_is_charged_what_a_field_of_its_message_says(stage: Stage, shape: Shape) -> None:
    name, guard = ("Many" if shape.replies_stream else "Echo"), stage.new_guard()
    guard.add(SERVICE, *priced("per.seconds").values())
    await stage.start(guard)

    def costing(units: int) -> dict[str, Any]:
        message = policy_pb2.Quota(per={"seconds": units})
        return {"name": path(name), "requests": [message.SerializeToString()]}

    await call(stage.channel(), shape, **costing(98))
    error = await refused(stage, shape, **costing(3))
    assert found(error, QuotaFailure).violations[0].description.startswith("100 of per.seconds")
    await call(stage.channel(), shape, **costing(0))
    await call(stage.channel(), shape, **costing(-50))
    await refused(stage, shape, **costing(1))


async def test_call_that_could_never_be_let_in_is_told_not_to_come_back(stage: Stage) -> None:
    guard = stage.new_guard()
    guard.add(SERVICE, *priced("limit").values())
    await stage.start(guard)
    dear = policy_pb2.Quota(limit=101).SerializeToString()
    error = await refused(stage, requests=[dear])
    assert info(error).reason == "COST_OVER_BURST"
    assert dict(error.trailing_metadata() or ())[PUSHBACK_KEY] == "-1"
    cheap = policy_pb2.Quota(limit=100).SerializeToString()
    await call(stage.channel(), UNARY, requests=[cheap])


async def test_call_refused_for_its_cost_spends_nothing_of_the_others(stage: Stage) -> None:
    guard = stage.new_guard()
    guard.add(SERVICE, *priced("limit").values())
    await stage.start(guard)
    for _ in range(10):
        await refused(stage, requests=[policy_pb2.Quota(limit=101).SerializeToString()])
    for _ in range(5):
        await call(stage.channel(), UNARY, requests=[policy_pb2.Quota(limit=1).SerializeToString()])
    error = await refused(stage, requests=[policy_pb2.Quota(limit=1).SerializeToString()])
    assert found(error, QuotaFailure).violations[0].description.startswith("5 calls")


@pytest.mark.parametrize(
    ("cost", "why"),
    [
        ("weight", "no single field of hauberk.policy.v1.Quota: 'weight'"),
        ("per.weight", "no single field of hauberk.policy.v1.Quota: 'per.weight'"),
        ("header", "no integer field of hauberk.policy.v1.Quota: 'header'"),
        ("per", "no integer field of hauberk.policy.v1.Quota: 'per'"),
        ("limit.size", "no single field of hauberk.policy.v1.Quota: 'limit.size'"),
    ],
)
def test_cost_that_no_message_tells_keeps_the_server_from_starting(stage: Stage, cost: str, why: str) -> None:
    with pytest.raises(PolicyError, match=f"/lab.v1.Lab/Echo: quota.cost is {why}"):
        stage.new_guard().add(SERVICE, *priced(cost).values())


def test_cost_of_messages_that_nothing_describes_keeps_the_server_from_starting(stage: Stage) -> None:
    with pytest.raises(PolicyError, match="needs a message that its contract describes"):
        stage.new_guard().add(SERVICE, *priced("limit", read=bytes).values())


def test_cost_in_a_list_keeps_the_server_from_starting(stage: Stage) -> None:
    read = catalog_pb2.ReserveStockRequest.FromString
    with pytest.raises(PolicyError, match=r"no single field of .*ReserveStockRequest: 'lines.quantity'"):
        stage.new_guard().add(SERVICE, *priced("lines.quantity", read=read).values())
