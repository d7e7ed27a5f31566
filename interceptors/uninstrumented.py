"""grpc's functions that make channels and servers, without what instrumentation has put around them.

Whoever instruments grpc (opentelemetry-instrument, or instrumenting.py for channels that are not ours)
replaces its public functions: each call over a channel of ours would have a second span, the streams to the
control plane one without an end, and our servers interceptors that know nothing of their methods. What is
underneath is reached below grpc's public face; where it has moved, the public functions are used.
"""

import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import grpc

Option = tuple[str, Any]


def aio_secure_channel(
    target: str, credentials: grpc.ChannelCredentials, options: Sequence[Option] = ()
) -> grpc.aio.Channel:
    made: grpc.aio.Channel = _in("grpc.aio._channel", "secure_channel", grpc.aio.secure_channel)(
        target, credentials, options
    )
    return made


def secure_channel(
    target: str, credentials: grpc.ChannelCredentials, options: Sequence[Option] = ()
) -> grpc.Channel:
    made: grpc.Channel = inspect.unwrap(grpc.secure_channel)(target, credentials, options)
    return made


def insecure_channel(target: str, options: Sequence[Option] = ()) -> grpc.Channel:
    made: grpc.Channel = inspect.unwrap(grpc.insecure_channel)(target, options)
    return made


def server(threads: Any, *, handlers: Sequence[Any], options: Sequence[Option]) -> grpc.Server:
    """`threads` stands where core expects a pool of them."""
    made: grpc.Server = _in("grpc._server", "create_server", _public_server)(
        threads, handlers, (), options, None, None, False
    )
    return made


def _public_server(threads: Any, handlers: Any, _: Any, options: Any, *more: Any) -> grpc.Server:
    return grpc.server(threads, handlers=handlers, options=options)


def _in(module: str, name: str, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return otherwise
    return found
