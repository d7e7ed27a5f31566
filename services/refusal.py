"""How a service of the shop says no: a status, its reason as google.rpc.ErrorInfo, the fields at fault.

    Refusal                 a precise status; `reason` is for programs, `str()` for people
    +-- InvalidFields       INVALID_ARGUMENT with google.rpc.BadRequest, of what the contract cannot say

Anything else that leaves a method is the guard's business: it becomes INTERNAL, and its text stays here.
Source: google.rpc.Status in `grpc-status-details-bin`, error_details.proto; AIP-193.
"""

import logging
import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from hauberk.services.sparing import Sparing

DOMAIN = "shop"
DETAILS_KEY = "grpc-status-details-bin"

_log = logging.getLogger(__name__)
_log.addFilter(Sparing())


class Refusal(Exception):
    """What a service will not do; subclasses say which status and reason it becomes."""

    code: grpc.StatusCode = grpc.StatusCode.FAILED_PRECONDITION
    reason: str = "REFUSED"

    @property
    def metadata(self) -> Mapping[str, str]:
        """The facts a program needs beside the reason."""
        return {}

    def details(self) -> Iterable[Message]:
        yield error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)


class InvalidFields(Refusal):
    """Messages that don't go together: each violation is (path of the field, what it must be)."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_FIELDS"

    def __init__(self, violations: Iterable[tuple[str, str]]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{field}: {rule}" for field, rule in self.violations))

    def details(self) -> Iterable[Message]:
        yield from super().details()
        bad = error_details_pb2.BadRequest()
        for field, rule in self.violations:
            bad.field_violations.add(field=field, description=rule)
        yield bad


class StoreUnavailable(Refusal):
    """The database does not answer; the cause is in our log only."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("the database does not answer; try again")


class Draining(Refusal):
    """This process leaves: a watch ends here and is opened again elsewhere."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "DRAINING"

    def __init__(self) -> None:
        super().__init__("this replica is leaving; open the stream again")


@asynccontextmanager
async def answering(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """End the call with the status of a Refusal raised inside; a database that fails is UNAVAILABLE."""
    try:
        yield
    except Refusal as refusal:
        await _abort(context, refusal)
    except (DBAPIError, PoolTimeoutError) as error:
        if not is_outage(error):
            raise
        _log.warning("the database does not answer: %s", str(error).partition("\n")[0])
        await _abort(context, StoreUnavailable())


def reason_of(error: grpc.RpcError) -> tuple[str, Mapping[str, str]]:
    """The reason and its facts that a callee of the shop gave; ("", {}) where it gave none we can read."""
    trailing = error.trailing_metadata() if isinstance(error, grpc.aio.AioRpcError) else None
    for key, value in trailing or ():
        if key != DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                said = error_details_pb2.ErrorInfo()
                if detail.Unpack(said) and said.domain == DOMAIN:
                    return said.reason, dict(said.metadata)
        except DecodeError:
            return "", {}
    return "", {}


def is_outage(error: BaseException) -> bool:
    """Whether the database is away, full or locked; a statement it finds wrong is our bug."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, PoolTimeoutError)
    # SQLite calls a misspelt column operational too, and tells it apart by its code only.
    sqlite_code = getattr(error.orig, "sqlite_errorcode", None)
    if sqlite_code is not None and sqlite_code & 0xFF == sqlite3.SQLITE_ERROR:
        return False
    return error.connection_invalidated or isinstance(error, OperationalError)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], refusal: Refusal) -> None:
    status = status_pb2.Status(code=refusal.code.value[0], message=str(refusal))
    for detail in refusal.details():
        status.details.add().Pack(detail)
    await context.abort(refusal.code, str(refusal), ((DETAILS_KEY, status.SerializeToString()),))
