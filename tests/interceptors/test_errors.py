"""The one table that turns an error into a status."""

from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus

from hauberk.interceptors import errors
from hauberk.interceptors.errors import PolicyError, Refused, rpc_error, status_of

Code = grpc.StatusCode

TABLE = {
    errors.Unidentified: Code.UNAUTHENTICATED,
    errors.Forbidden: Code.PERMISSION_DENIED,
    errors.DeadlinePassed: Code.DEADLINE_EXCEEDED,
    errors.DeadlineRequired: Code.FAILED_PRECONDITION,
    errors.MetadataRefused: Code.INVALID_ARGUMENT,
    errors.MetadataTooLarge: Code.RESOURCE_EXHAUSTED,
    errors.MessageUnreadable: Code.INVALID_ARGUMENT,
    errors.MessageInvalid: Code.INVALID_ARGUMENT,
    errors.MessageTooLarge: Code.RESOURCE_EXHAUSTED,
    errors.TooManyItems: Code.RESOURCE_EXHAUSTED,
    errors.MessageMissing: Code.UNIMPLEMENTED,
    errors.UnknownMethod: Code.UNIMPLEMENTED,
    errors.TooManyInFlight: Code.RESOURCE_EXHAUSTED,
    errors.RepliesUnread: Code.RESOURCE_EXHAUSTED,
    errors.TokenChecksSpent: Code.RESOURCE_EXHAUSTED,
    errors.QuotaSpent: Code.RESOURCE_EXHAUSTED,
    errors.Draining: Code.UNAVAILABLE,
    errors.AuditUnwritable: Code.UNAVAILABLE,
    errors.MemoryShort: Code.UNAVAILABLE,
    errors.Overloaded: Code.UNAVAILABLE,
    errors.IdentityUnfit: Code.UNAVAILABLE,
    errors.ChannelClosed: Code.UNAVAILABLE,
    errors.ServerRevoked: Code.UNAVAILABLE,
}


def unpacked(details: bytes) -> tuple[RpcStatus, ErrorInfo]:
    status, info = RpcStatus.FromString(details), ErrorInfo()
    assert status.details[0].Unpack(info)
    return status, info


@pytest.mark.parametrize(("kind", "code"), TABLE.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_each_refusal_has_its_status(kind: type[Refused], code: grpc.StatusCode) -> None:
    status = status_of(kind("because"), "abc")
    assert (status.code, status.message) == (code, "because")
    rpc, info = unpacked(status.details)
    assert (rpc.code, rpc.message) == (code.value[0], "because")
    assert (info.reason, info.domain) == (kind.reason, "hauberk")
    assert info.metadata["trace_id"] == "abc"


def test_what_is_wrong_with_a_token_stands_in_our_log_alone() -> None:
    refused = errors.TokenRefused("TOKEN_EXPIRED")
    status = status_of(refused)
    assert refused.logged == "TOKEN_EXPIRED"
    assert (status.code, status.message) == (Code.UNAUTHENTICATED, "access token refused")
    assert unpacked(status.details)[1].reason == "TOKEN_REFUSED"
    assert b"EXPIRED" not in status.details
    assert errors.Forbidden("no").logged == "CALLER_NOT_ALLOWED"


def test_table_is_whole() -> None:
    def kinds(parent: type[Refused]) -> set[type[Refused]]:
        return {parent, *(kind for child in parent.__subclasses__() for kind in kinds(child))}

    ours = {kind for kind in kinds(Refused) if kind.__module__ == Refused.__module__}
    assert ours - {Refused, errors.TokenRefused} == set(TABLE)


def test_reasons_are_upper_snake_and_tell_apart() -> None:
    reasons = [kind.reason for kind in TABLE]
    assert len(set(reasons)) == len(reasons)
    for reason in reasons:
        assert reason.replace("_", "").isalpha()
        assert reason.isupper()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("hunter2"),
        PolicyError("hunter2"),
        KeyError("hunter2"),
        ExceptionGroup("hunter2", [OSError()]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_anything_else_is_internal_and_says_nothing(error: Exception) -> None:
    status = status_of(error, "abc")
    assert (status.code, status.message) == (Code.INTERNAL, "internal error abc")
    assert b"hunter2" not in status.details
    assert unpacked(status.details)[1].metadata == {"trace_id": "abc"}


def test_facts_are_cut_so_that_trailers_stay_small() -> None:
    status = status_of(errors.Forbidden("no", metadata={"caller": "x" * 5000}))
    assert len(unpacked(status.details)[1].metadata["caller"]) == 256


def test_message_is_cut_so_that_trailers_stay_small() -> None:
    status = status_of(Refused("x" * 20_000))
    assert len(status.message) == len(unpacked(status.details)[0].message) == 1024


def test_further_details_follow_the_reason_as_far_as_they_fit_in_whole() -> None:
    retry, huge, bad = RetryInfo(), BadRequest(), BadRequest()
    retry.retry_delay.seconds = 3
    huge.field_violations.add(field="a", description="x" * 5000)
    bad.field_violations.add(field="a", description="is wrong")
    assert [each.TypeName() for each in packed(retry, bad)] == [
        "google.rpc.RetryInfo",
        "google.rpc.BadRequest",
    ]
    assert [each.TypeName() for each in packed(retry, huge)] == ["google.rpc.RetryInfo"]


def packed(*details: Message) -> list[Any]:
    status = unpacked(status_of(Refused("no", details=details)).details)[0]
    return list(status.details)[1:]


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (Refused("sold out", metadata={"left": 0}), "sold out"),  # type: ignore[dict-item]
        (Refused(KeyError("sku")), "'sku'"),  # type: ignore[arg-type]
        (Refused("half of it: \ud83d"), "half of it: ?"),
        (Refused.__new__(Refused), ""),
    ],
    ids=["number", "exception", "surrogate", "of a kind whose own init forgot ours"],
)
def test_refusal_of_odd_things_stays_a_refusal(refused: Refused, message: str) -> None:
    status = status_of(refused, "abc")
    assert (status.code, status.message) == (Code.FAILED_PRECONDITION, message)
    assert unpacked(status.details)[1].reason == "REFUSED"


def test_refusal_cannot_be_ok() -> None:
    with pytest.raises(ValueError, match="status OK"):
        Refused("fine", status=Code.OK)


def test_own_status_and_reason_win_over_the_kinds() -> None:
    refused = Refused("sold out", status=Code.ABORTED, reason="SOLD_OUT")
    status = status_of(refused)
    assert status.code is Code.ABORTED
    assert unpacked(status.details)[1].reason == "SOLD_OUT"
    assert str(refused) == "sold out"


def test_stub_raises_the_same_status() -> None:
    error = rpc_error(errors.DeadlinePassed("late"), "abc")
    assert (error.code(), error.details()) == (Code.DEADLINE_EXCEEDED, "late")
    trailers = dict(error.trailing_metadata())
    details = trailers["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    assert unpacked(details)[1].reason == "DEADLINE_PASSED"
