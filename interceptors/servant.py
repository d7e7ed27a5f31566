"""A method as its author wrote it, made one thing to call: request and context in, reply bytes out.

An asyncio server serves coroutines and asynchronous generators. A plain function is refused when it is added:
grpc.aio would run it in a thread, where no deadline reaches it. A threaded server serves those, and refuses
the others: nothing would ever await them.
"""

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor

from hauberk.interceptors.call import current_call
from hauberk.interceptors.errors import MessageUnreadable, PolicyError, UnknownMethod
from hauberk.interceptors.message import message_check
from hauberk.interceptors.policy import Policy
from hauberk.interceptors.rules import has_rules

Context = grpc.aio.ServicerContext[Any, Any]
RpcMethod: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Answer = Callable[[Any, Context], Awaitable[Any]]
Ending = Callable[[Any, Context], bytes]
PlainAnswer = Callable[[Any, Any], bytes]
Reader = Callable[[bytes], Any]
Writer = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class Servant:
    """What runs once a call is admitted."""

    answer: Answer
    """Runs the method. Replies that stream go out meanwhile."""
    reply: Ending
    """The bytes of the one reply, from what the method returned; none where replies stream."""
    read_message: Reader
    write_message: Writer

    @classmethod
    def of(cls, path: str, method: RpcMethod, policy: Policy) -> Self:
        """Raises PolicyError if the method is no coroutine and no generator, or not of the contract's
        shape.
        """
        _check_shape(path, method, policy)
        behaviour = _behaviour(method)
        write = method.response_serializer or bytes
        return cls(
            _answer(path, behaviour, policy),
            _no_reply if policy.response_streaming else _replies(path, write),
            _reader(method.request_deserializer, path, policy),
            _counting(write),
        )

    @classmethod
    def nobody(cls) -> Self:
        """Runs behind a pipeline that lets no call through."""
        return cls(_left_out("method"), _no_reply, bytes, bytes)


@dataclass(frozen=True, slots=True)
class PlainServant:
    """The same for a threaded server: `answer` runs to its end in the thread that calls it."""

    answer: PlainAnswer
    read_message: Reader

    @classmethod
    def of(cls, path: str, method: RpcMethod, policy: Policy) -> Self:
        """Raises PolicyError if the method is an asyncio one, or not of the contract's shape."""
        _check_shape(path, method, policy)
        write = method.response_serializer or bytes
        if policy.response_streaming:
            write = _counting(write)
        answer = _plain_answer(path, _behaviour(method), policy, write)
        return cls(answer, _reader(method.request_deserializer, path, policy))

    @classmethod
    def nobody(cls) -> Self:
        """Runs behind a pipeline that lets no call through."""
        return cls(_plain_left_out("method"), bytes)


def has_failed(context: Any) -> bool:
    """Whether the method has set a status other than OK."""
    return context.code() not in (None, grpc.StatusCode.OK, 0)


def _check_shape(path: str, method: RpcMethod, policy: Policy) -> None:
    if (method.request_streaming, method.response_streaming) != (
        policy.request_streaming,
        policy.response_streaming,
    ):
        raise PolicyError(f"method is not of the shape its contract says: {path}")


def read_type(deserialize: Reader | None) -> Descriptor | None:
    """The type that generated code parses; None where messages are read another way."""
    described = getattr(getattr(deserialize, "__self__", None), "DESCRIPTOR", None)
    return described if isinstance(described, Descriptor) else None


def _behaviour(method: RpcMethod) -> Callable[..., Any]:
    behaviour: Callable[..., Any] | None
    if method.request_streaming:
        behaviour = method.stream_stream if method.response_streaming else method.stream_unary
    else:
        behaviour = method.unary_stream if method.response_streaming else method.unary_unary
    assert behaviour is not None  # noqa: S101 - RpcMethodHandler's own promise
    return behaviour


def _answer(path: str, behaviour: Callable[..., Any], policy: Policy) -> Answer:
    called = _called(behaviour)
    if inspect.iscoroutinefunction(called):
        return behaviour
    if inspect.isasyncgenfunction(called):
        if not policy.response_streaming:
            raise PolicyError(f"method is a generator, but its contract says one reply: {path}")
        return _generates(behaviour)
    if _is_generated(called):
        return _left_out(path)
    raise PolicyError(
        f"method is a plain function, an asyncio server needs `async def`: {path} ({_named(called)}); plain "
        "ones are for mesh.threaded_server()"
    )


def _plain_answer(path: str, behaviour: Callable[..., Any], policy: Policy, write: Writer) -> PlainAnswer:
    called = _called(behaviour)
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise PolicyError(
            f"method is `async def`, a threaded server needs a plain function: {path} ({_named(called)}); "
            "asyncio ones are for mesh.server()"
        )
    if _is_generated(called):
        return _plain_left_out(path)
    if policy.response_streaming:
        return _plain_generates(behaviour, write)
    if inspect.isgeneratorfunction(called):
        raise PolicyError(f"method is a generator, but its contract says one reply: {path}")
    return _plain_replies(behaviour, path, write)


def _called(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind it."""
    while isinstance(behaviour, functools.partial):
        behaviour = behaviour.func
    return behaviour if inspect.isroutine(behaviour) else type(behaviour).__call__


def _is_generated(called: Callable[..., Any]) -> bool:
    return str(getattr(called, "__module__", "")).endswith("_pb2_grpc")


def _named(called: Callable[..., Any]) -> object:
    return getattr(called, "__qualname__", called)


def _replies(path: str, write: Writer) -> Ending:
    promised = _promised(path, write)

    def reply(returned: Any, context: Context) -> bytes:
        if context.done() or has_failed(context):
            return b""
        _check_reply(returned, path, promised)
        return write(returned)

    return reply


def _no_reply(returned: Any, context: Context) -> bytes:
    return b""


def _promised(path: str, write: Writer) -> str | None:
    """Full name of the message the contract says; None where the method writes its replies another way."""
    if getattr(write, "__name__", "") != "SerializeToString":
        return None
    service, _, name = path.removeprefix("/").partition("/")
    try:
        contract = descriptor_pool.Default().FindServiceByName(service)
        return str(contract.methods_by_name[name].output_type.full_name)
    except KeyError:  # no contract of this process
        return None


def _check_reply(reply: Any, path: str, promised: str | None) -> None:
    if promised is None and reply is not None:
        return
    described = getattr(reply, "DESCRIPTOR", None)
    returned = type(reply).__name__ if described is None else described.full_name
    if returned != promised:
        raise TypeError(f"{path} returned {returned}, its contract says {promised or 'a reply'}")


def _generates(behaviour: Callable[..., AsyncIterator[Any]]) -> Answer:
    async def answer(request: Any, context: Context) -> None:
        # Left at a yield (the deadline passed in write), it would be closed when the collector comes by.
        async with aclosing(behaviour(request, context)) as replies:  # type: ignore[type-var]
            async for reply in replies:
                await context.write(reply)

    return answer


def _plain_replies(behaviour: Callable[..., Any], path: str, write: Writer) -> PlainAnswer:
    promised = _promised(path, write)

    def answer(request: Any, context: Any) -> bytes:
        reply = behaviour(request, context)
        if context.over or context.aborted or has_failed(context):
            return b""
        _check_reply(reply, path, promised)
        return write(reply)

    return answer


def _plain_generates(behaviour: Callable[..., Iterable[Any]], write: Writer) -> PlainAnswer:
    def answer(request: Any, context: Any) -> bytes:
        replies = behaviour(request, context)
        try:
            for reply in replies:
                context.write(write(reply))
        finally:
            close = getattr(replies, "close", None)
            if close is not None:
                close()
        return b""

    return answer


def _plain_left_out(path: str) -> PlainAnswer:
    def answer(request: Any, context: Any) -> bytes:
        raise UnknownMethod(f"method is not implemented: {path}", reason="METHOD_NOT_IMPLEMENTED")

    return answer


def _left_out(path: str) -> Answer:
    """A method its author left to the generated class, whose own body is a plain function that raises."""

    async def answer(request: Any, context: Context) -> None:
        raise UnknownMethod(f"method is not implemented: {path}", reason="METHOD_NOT_IMPLEMENTED")

    return answer


def _reader(deserialize: Reader | None, path: str, policy: Policy) -> Reader:
    read = deserialize or bytes
    described = read_type(deserialize)
    check_message = message_check(policy.message, path, described)

    def read_message(raw: bytes) -> Any:
        if call := current_call():
            call.received += len(raw)
        check_message(raw)
        try:
            return read(raw)
        except Exception as error:
            raise MessageUnreadable(f"message is not one of {path}") from error

    if described is None or not has_rules(described):
        return read_message
    # Not at the top: the engine takes 13 MB and 0.1 s, which only a process with rules is to pay.
    from hauberk.interceptors.validation import rules_check

    check_rules = rules_check(policy.message, path, described)

    def read_valid(raw: bytes) -> Any:
        message = read_message(raw)
        check_rules(message)
        return message

    return read_valid


def _counting(write: Writer) -> Writer:
    """`write` for replies that stream."""

    def write_message(message: Any) -> bytes:
        written = write(message)
        if call := current_call():
            call.sent += len(written)
        return written

    return write_message
