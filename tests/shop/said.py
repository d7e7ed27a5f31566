"""What a refusal of the shop says, read as its callers read it."""

from collections.abc import Awaitable

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from hauberk.services.refusal import DETAILS_KEY, reason_of


async def refused(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    """The error that the call ends with; fails if it succeeds."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def reason(error: grpc.aio.AioRpcError) -> str:
    return reason_of(error)[0]


def order_id_of(error: grpc.aio.AioRpcError) -> str:
    """Which order a refusal is about."""
    return reason_of(error)[1]["order_id"]


def fields(error: grpc.aio.AioRpcError) -> list[str]:
    """The paths of the fields that were wrong."""
    [packed] = [value for key, value in error.trailing_metadata() or () if key == DETAILS_KEY]
    assert isinstance(packed, bytes)
    bad = error_details_pb2.BadRequest()
    for detail in status_pb2.Status.FromString(packed).details:
        if detail.Unpack(bad):
            return [violation.field for violation in bad.field_violations]
    return []
