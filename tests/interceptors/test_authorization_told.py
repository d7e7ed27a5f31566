"""The decision on who may call, and what it goes by, as the log of each call has it."""

import dataclasses

import pytest
from grpc.aio import AioRpcError

from hauberk.interceptors.demands import TokenRule
from hauberk.interceptors.policy import callers
from tests.interceptors.stage import Shape, Stage, call, echo, policy
from tests.interceptors.token_calls import bearer
from tests.interceptors.token_forge import Forge

SERVED_BY = ("asyncio", "threaded")
UNARY = Shape.UNARY_UNARY


async def told(stage: Stage) -> tuple[str | None, str | None, str | None]:
    (line,) = await stage.records(1)
    return line["hauberk.authorization"], line["hauberk.admitted_by"], line["error.reason"]


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (("orders", "gateway"), ("allowed", "gateway", None)),
        (("batch/*", "*"), ("allowed", "*", None)),
        (("spiffe://mesh.test/gateway",), ("allowed", "spiffe://mesh.test/gateway", None)),
        (("orders",), ("refused", None, "CALLER_NOT_ALLOWED")),
    ],
)
async def test_entry_of_the_contract_that_decides_is_named(
    stage: Stage, shape: Shape, patterns: tuple[str, ...], said: tuple[str, str | None, str | None]
) -> None:
    demanded = dataclasses.replace(policy("Echo", shape), callers=callers(*patterns))
    await stage.serve({"Echo": (shape, echo(shape), demanded)})
    try:
        await call(stage.channel(), shape)
    except AioRpcError:
        assert said[0] == "refused"
    assert await told(stage) == said


async def test_method_for_anybody_says_so(stage: Stage) -> None:
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, anonymous=True))})
    await call(stage.channel(), UNARY)
    assert await told(stage) == ("allowed", "anonymous", None)


async def test_token_that_has_not_what_is_demanded_refuses_an_admitted_caller(
    stage: Stage, forge: Forge
) -> None:
    demanded = policy("Echo", UNARY, "*", token=TokenRule(bound=False, roles=("clerk",)))
    await stage.serve({"Echo": (UNARY, echo(UNARY), demanded)}, tokens=forge.tokens())
    with pytest.raises(AioRpcError):
        await call(stage.channel(), UNARY, metadata=bearer(forge.token()))
    assert await told(stage) == ("refused", "*", "ROLE_MISSING")


async def test_call_to_no_method_is_decided_by_nobody(stage: Stage) -> None:
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "*"))})
    with pytest.raises(AioRpcError):
        await call(stage.channel(), UNARY, "Nothing")
    assert await told(stage) == (None, None, "UNKNOWN_METHOD")
