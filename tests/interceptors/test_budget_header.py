"""What is left of a call's time, told exactly: core's own header is rounded up."""

import math
import random
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError

from hauberk.interceptors.call import current_call
from hauberk.interceptors.metadata import BUDGET
from tests.interceptors.stage import Shape, Stage, begin, call, info, policy

UNARY = Shape.UNARY_UNARY


async def left(request: bytes, context: Any) -> bytes:
    served = current_call()
    assert served is not None
    assert served.time_left_s is not None
    return str(served.time_left_s).encode()


async def test_callee_never_sees_more_than_its_caller_has(stage: Stage) -> None:
    await stage.serve({"Left": (UNARY, left, policy("Left", UNARY, "*"))})
    channel = stage.guarded()
    for seed in range(200):
        has = 10 ** random.Random(seed).uniform(-0.5, 4)
        (seen,) = await call(channel, UNARY, "Left", within=has)
        assert 0.9 * has < float(seen) <= has


async def test_callee_takes_whatever_a_timeout_may_be(stage: Stage) -> None:
    """One too long for the header goes without it: core's own tells enough."""
    await stage.serve({"Left": (UNARY, left, policy("Left", UNARY, "*"))})
    for has in (9_999_999, 10_000_000, 1e9):
        (seen,) = await call(stage.guarded(), UNARY, "Left", within=has)
        assert float(seen) > 9_000_000
    begin(stage.guarded(), UNARY, "Left", within=math.inf).cancel()


async def test_budget_only_ever_shortens_what_core_says(stage: Stage) -> None:
    await stage.serve({"Left": (UNARY, left, policy("Left", UNARY, "*"))})
    bare = stage.channel()
    (seen,) = await call(bare, UNARY, "Left", within=5, metadata=((BUDGET, "1000"),))
    assert float(seen) == 1.0
    (seen,) = await call(bare, UNARY, "Left", within=5, metadata=((BUDGET, "9000"),))
    assert float(seen) < 5.3


@pytest.mark.parametrize("text", ["", "-5", "1_0", " 5", "5s", "12345678901"])
async def test_a_budget_that_is_no_number_is_refused(stage: Stage, text: str) -> None:
    await stage.serve({"Left": (UNARY, left, policy("Left", UNARY, "*"))})
    with pytest.raises(AioRpcError) as caught:
        await begin(stage.channel(), UNARY, "Left", metadata=((BUDGET, text),))
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    assert info(caught.value).metadata["key"] == BUDGET


async def test_a_budget_that_is_spent_is_a_passed_deadline(stage: Stage) -> None:
    await stage.serve({"Left": (UNARY, left, policy("Left", UNARY, "*"))})
    with pytest.raises(AioRpcError) as caught:
        await begin(stage.channel(), UNARY, "Left", metadata=((BUDGET, "0"),))
    assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
