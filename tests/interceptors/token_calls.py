"""Calls that bring tokens, and what is said to them."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from hauberk.certs.identity import identify_certificate
from hauberk.interceptors.call import Call, current_call
from hauberk.interceptors.demands import TokenRule
from hauberk.interceptors.token_check import Tokens
from tests.interceptors.stage import Behaviour, Metadata, Shape, Stage, call, echo, info, policy
from tests.interceptors.token_forge import Forge

UNARY = Shape.UNARY_UNARY


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


async def serve(
    stage: Stage, forge: Forge, rule: TokenRule, shape: Shape = UNARY, *, tokens: Tokens | None = None
) -> list[Any]:
    """Starts a server whose Echo demands a token; what is returned gets an entry each time it runs."""
    ran: list[Any] = []
    said = policy("Echo", shape, "*", token=rule)
    await stage.serve({"Echo": (shape, echo(shape, ran), said)}, tokens=tokens or forge.tokens())
    return ran


async def refused(channel: grpc.aio.Channel, shape: Shape = UNARY, **how: Any) -> tuple[str, str]:
    """Status and reason of a call that is refused."""
    with pytest.raises(AioRpcError) as caught:
        await call(channel, shape, **how)
    reason = info(caught.value).reason
    if reason == "TOKEN_REFUSED":
        assert caught.value.details() == "access token refused"
        assert info(caught.value).metadata.keys() == {"trace_id"}
    return caught.value.code().name, reason


def caller(stage: Stage, name: str = "gateway") -> tuple[grpc.aio.Channel, str]:
    """A channel of `name`, and the thumbprint of the certificate it shows."""
    credentials = stage.credentials(name)
    leaf = identify_certificate(credentials.svid.leaf)
    return stage.channel(credentials=credentials.channel_credentials()), leaf.x5t_s256


async def logged(stage: Stage, count: int) -> list[str | None]:
    return [record["error.reason"] for record in await stage.records(count)]


def seeing(seen: list[Call | None], shape: Shape) -> Behaviour:
    async def one(request: Any, context: Any) -> bytes:
        seen.append(current_call())
        return b"seen"

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield await one(request, context)

    return many if shape.replies_stream else one
