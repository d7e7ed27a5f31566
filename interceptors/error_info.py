"""What a refusal of ours says of itself, read from the trailing metadata of a failed call (AIP-193)."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from hauberk.interceptors.errors import DETAILS_KEY, DOMAIN


def error_info(trailers: Iterable[Any] | None) -> ErrorInfo | None:
    """Our ErrorInfo in these trailers, if they carry one."""
    for key, value in trailers or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return _in(value)
    return None


def reason_in(trailers: Iterable[Any] | None) -> str | None:
    """The reason in our ErrorInfo there, cut to what ours have at most."""
    info = error_info(trailers)
    return None if info is None else info.reason[:256]


def _in(serialized: bytes) -> ErrorInfo | None:
    info = ErrorInfo()
    try:
        for detail in Status.FromString(serialized).details:
            if detail.Unpack(info) and info.domain == DOMAIN:
                return info
    except DecodeError:
        pass
    return None
