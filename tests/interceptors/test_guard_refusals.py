"""Each refusal, in each of the four shapes: what the caller is told, and that the method never ran."""

from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from tests.interceptors.stage import Shape, Stage, call, echo, info, path, policy


async def refused(stage: Stage, shape: Shape, name: str = "gateway", **how: Any) -> AioRpcError:
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(name), shape, **how)
    return caught.value


async def test_a_caller_on_the_list_is_served(stage: Stage, shape: Shape) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "gateway"))})
    assert await call(stage.channel("gateway"), shape) == [b"hello"]
    (record,) = await stage.records()
    assert (record["grpc.status"], record["error.reason"]) == ("OK", None)
    assert record["client.spiffe_id"] == "spiffe://mesh.test/gateway"
    assert record["rpc.method"] == path("Echo")


async def test_a_caller_not_on_the_list_is_forbidden(stage: Stage, shape: Shape) -> None:
    ran: list[Any] = []
    await stage.serve({"Echo": (shape, echo(shape, ran), policy("Echo", shape, "orders", "gateway/*"))})
    error = await refused(stage, shape)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert info(error).reason == "CALLER_NOT_ALLOWED"
    assert info(error).metadata["caller"] == "spiffe://mesh.test/gateway"
    assert not ran
