"""A method may raise anything: its caller is told a trace id and no more, our log has the rest beside it."""

import asyncio
import io
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from hauberk.interceptors.errors import Refused
from tests.interceptors.stage import Behaviour, Shape, Stage, call, echo, info, policy

INSIDE = "internal-3f9c"
"""What no caller may see."""


class Own(BaseException):
    """Neither an Exception nor known to anybody."""


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError(INSIDE)


class Wordless(Exception):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]


class Lying(Exception):
    """Says it is something else."""

    __class__ = Refused  # type: ignore[assignment]


def deep(depth: int = 0) -> None:
    deep(depth + 1)


def chained() -> None:
    try:
        raise KeyError(INSIDE)
    except KeyError as error:
        raise ValueError("outer " + INSIDE) from error


def own_cause() -> None:
    error, other = ValueError(INSIDE), KeyError(INSIDE)
    error.__cause__, other.__cause__ = other, error
    raise error


def noted() -> None:
    error = ValueError(INSIDE)
    error.add_note("note " + INSIDE)
    raise error


def raising(error: Any) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it


def callee() -> AioRpcError:
    return AioRpcError(
        grpc.StatusCode.NOT_FOUND,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(("grpc-status-details-bin", INSIDE.encode())),
        details=INSIDE,
        debug_error_string=INSIDE,
    )


RAISED: dict[str, tuple[Callable[[], None], str]] = {
    "exception": (raising(ValueError(INSIDE)), "ValueError"),
    "base exception": (raising(Own(INSIDE)), "Own"),
    "system exit": (raising(SystemExit(INSIDE)), "SystemExit"),
    "generator exit": (raising(GeneratorExit(INSIDE)), "GeneratorExit"),
    "cancelled": (raising(asyncio.CancelledError(INSIDE)), "CancelledError"),
    "stop iteration": (raising(StopIteration(INSIDE)), "StopIteration"),
    "stop async iteration": (raising(StopAsyncIteration(INSIDE)), "StopAsyncIteration"),
    "group": (raising(ExceptionGroup(INSIDE, [OSError(INSIDE), KeyError(INSIDE)])), "ExceptionGroup"),
    "base group": (raising(BaseExceptionGroup(INSIDE, [Own(INSIDE), SystemExit(1)])), "BaseExceptionGroup"),
    "wide group": (raising(ExceptionGroup("x", [OSError(INSIDE)] * 10_000)), "ExceptionGroup"),
    "mute": (raising(Mute()), "Mute"),
    "wordless": (raising(Wordless()), "Wordless"),
    "huge": (raising(ValueError(INSIDE + "x" * 10_000_000)), "ValueError"),
    "surrogates": (raising(ValueError(INSIDE + "\ud83d\udcff")), "ValueError"),
    "line breaks": (raising(ValueError(f"{INSIDE}\n2026-01-01 ERROR x: forged\r\x1b[2J")), "ValueError"),
    "bytes": (raising(UnicodeDecodeError("utf-8", b"\xff" + INSIDE.encode(), 0, 1, INSIDE)), "Unicode"),
    "recursion": (deep, "RecursionError"),
    "memory": (raising(MemoryError(INSIDE)), "MemoryError"),
    "chain": (chained, "KeyError"),
    "its own cause": (own_cause, "ValueError"),
    "note": (noted, "ValueError"),
    "a callee's status": (raising(callee()), "AioRpcError"),
    "aio usage": (raising(grpc.aio.UsageError(INSIDE)), "UsageError"),
    "aio internal": (raising(grpc.aio.InternalError(INSIDE)), "InternalError"),
    "rpc error": (raising(grpc.RpcError(INSIDE)), "RpcError"),
    "no exception": (raising(INSIDE), "TypeError"),
}


def failing(shape: Shape, fail: Callable[[], None]) -> Behaviour:
    """A method that fails after it has taken a message, and sent one where it streams."""

    async def one(request: Any, context: Any) -> bytes:
        fail()
        return b"never"

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        fail()

    return many if shape.replies_stream else one


class Log(logging.Handler):
    """What stands in a log of the simplest kind, a line of text a record."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = io.StringIO()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream.write(self.format(record) + "\n")


@pytest.fixture
def log() -> Any:
    handler = Log()
    logging.getLogger().addHandler(handler)
    yield handler.stream
    logging.getLogger().removeHandler(handler)


def everything(error: AioRpcError) -> str:
    return repr((error.details(), error.debug_error_string(), error.trailing_metadata(), str(error)))


@pytest.mark.parametrize("what", RAISED)
async def test_anything_becomes_internal_and_its_inside_stays_here(
    stage: Stage, shape: Shape, what: str, log: io.StringIO
) -> None:
    fail, kind = RAISED[what]
    await stage.serve(
        {
            "Fail": (shape, failing(shape, fail), policy("Fail", shape, "*")),
            "Echo": (shape, echo(shape), policy("Echo", shape, "*")),
        }
    )
    channel = stage.channel()
    with pytest.raises(AioRpcError) as caught:
        await call(channel, shape, "Fail", within=5)
    error = caught.value
    assert error.code() is grpc.StatusCode.INTERNAL
    trace_id = info(error).metadata["trace_id"]
    assert error.details() == f"internal error {trace_id}"
    assert INSIDE not in everything(error)
    said = log.getvalue()
    assert f"/lab.v1.Lab/Fail failed, trace {trace_id}: " in said
    assert kind in said
    assert INSIDE in said or what in ("recursion", "mute", "wordless", "wide group", "no exception")
    assert "test_raising.py:" in said, "where it was raised"
    assert len(said) < 40_000
    assert all(line.startswith(("ERROR ", "  ")) for line in said.splitlines())
    (line,) = [one for one in await stage.records() if one["rpc.method"] == "/lab.v1.Lab/Fail"]
    assert (line["grpc.status"], line["error.reason"], line["trace.id"]) == ("INTERNAL", "INTERNAL", trace_id)
    assert await call(channel, shape) == [b"hello"], "the server goes on"


@pytest.mark.parametrize(
    "refused",
    [
        Refused("no", reason="half: \ud83d"),
        Refused("no", reason=42),  # type: ignore[arg-type]
        Refused(Mute()),  # type: ignore[arg-type]
        Refused("no", metadata={42: Mute(), "\ud83d": "\ud83d"}),  # type: ignore[dict-item]
        Refused("no\nmore\0" + "x" * 100_000),
    ],
    ids=["surrogate reason", "number", "mute message", "mute fact", "long"],
)
async def test_refusal_made_of_anything_is_that_refusal(stage: Stage, shape: Shape, refused: Refused) -> None:
    def fail() -> None:
        raise refused

    await stage.serve({"Fail": (shape, failing(shape, fail), policy("Fail", shape, "*"))})
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(), shape, "Fail", within=5)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert INSIDE not in everything(caught.value)
    (line,) = await stage.records()
    assert line["grpc.status"] == "FAILED_PRECONDITION"


@pytest.mark.parametrize(
    "trailers",
    [
        (("Bad Key\n", "x"),),
        (("key", INSIDE + "\ud83d"),),
        (("key", 42),),
        ((INSIDE,),),
        (("key-bin", INSIDE),),
    ],
    ids=["key", "surrogate", "number", "no pairs", "text as bytes"],
)
async def test_trailers_that_cannot_be_sent_tell_nothing(stage: Stage, shape: Shape, trailers: Any) -> None:
    async def one(request: Any, context: Any) -> bytes:
        context.set_trailing_metadata(trailers)
        raise ValueError(INSIDE)

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        context.set_trailing_metadata(trailers)
        yield b"first"
        raise ValueError(INSIDE)

    await stage.serve({"Fail": (shape, many if shape.replies_stream else one, policy("Fail", shape, "*"))})
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(), shape, "Fail", within=5)
    assert INSIDE not in everything(caught.value)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert info(caught.value).reason == "INTERNAL"


async def test_after_its_end_a_call_may_raise_too(stage: Stage, shape: Shape, log: io.StringIO) -> None:
    async def one(request: Any, context: Any) -> bytes:
        try:
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        finally:
            raise ValueError(INSIDE)

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        try:
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        finally:
            raise ValueError(INSIDE)
        yield b""

    await stage.serve({"Fail": (shape, many if shape.replies_stream else one, policy("Fail", shape, "*"))})
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(), shape, "Fail", within=5)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "gone")
    (line,) = await stage.records()
    assert re.search(rf"failed after its end, trace {line['trace.id']}: ValueError: {INSIDE}", log.getvalue())
