"""Saying in a test that a call is refused, and how."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from hauberk.interceptors.errors import DETAILS_KEY


@dataclass(slots=True)
class Refusal:
    """How a call was refused, as its caller is told; filled when the block of `refused` is left."""

    code: str = ""
    details: str = ""
    reason: str | None = None
    """Of its ErrorInfo; None where it has none."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Of its ErrorInfo too."""
    retry_after_s: float | None = None

    def _tell(self, error: Any) -> None:
        self.code, self.details = error.code().name, error.details() or ""
        raw = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
        info, retry = ErrorInfo(), RetryInfo()
        for detail in Status.FromString(raw).details if isinstance(raw, bytes) else ():
            if detail.Unpack(info):
                self.reason, self.facts = info.reason, dict(info.metadata)
            elif detail.Unpack(retry):
                self.retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()


@contextmanager
def refused(code: str | grpc.StatusCode, *, reason: str | None = None) -> Iterator[Refusal]:
    """The block ends with a call that is refused with this status, and for this reason if one is given.

    Calls may be of either kind:

        with refused("RESOURCE_EXHAUSTED", reason="QUOTA_SPENT") as refusal:
            await stub.PlaceOrder(order, timeout=2)
        assert refusal.retry_after_s == 60

    Raises AssertionError where nothing is refused, or otherwise. What is no refusal goes through.
    """
    __tracebackhide__ = True
    expected = code if isinstance(code, str) else code.name
    refusal = Refusal()
    try:
        yield refusal
    except grpc.RpcError as error:
        refusal._tell(error)
        if refusal.code != expected or (reason is not None and refusal.reason != reason):
            raise AssertionError(
                f"refused with {refusal.code}, reason {refusal.reason}: {refusal.details}; "
                f"expected {expected}{f', reason {reason}' if reason else ''}"
            ) from error
    else:
        raise AssertionError(f"nothing was refused; expected {expected}{f', {reason}' if reason else ''}")
