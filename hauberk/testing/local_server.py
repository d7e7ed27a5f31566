"""Servers of the mesh as they are, but for the clock that their quotas go by."""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hauberk.certs.watch import Watch
from hauberk.interceptors.inbound import Guard
from hauberk.interceptors.peer import Trust
from hauberk.interceptors.quota import Quotas
from hauberk.server import MeshServer
from hauberk.threaded import ThreadedServer

Add = Callable[[Any, Any], None]


class LocalServer(MeshServer):
    """For methods that are coroutines."""

    def __init__(self, *, quotas: Quotas, **more: Any) -> None:
        self._quotas = quotas
        super().__init__(**more)

    def _new_guard(self, trust: Watch[Trust], **more: Any) -> Guard:
        return super()._new_guard(trust, quotas=self._quotas, **more)


class LocalThreadedServer(LocalServer, ThreadedServer):
    """For those that are plain functions."""


def new_server(servicers: Iterable[object], **how: Any) -> LocalServer:
    """One of the kind that these are written for, which it does not serve yet."""
    plain = any(_is_plain(servicer) for servicer in servicers)
    return (LocalThreadedServer if plain else LocalServer)(**how)


def adders(servicer: object) -> Iterator[Add]:
    """Generated code's `add_..._to_server` for each contract that the servicer's class implements.

    Raises TypeError if it implements none.
    """
    found = [
        getattr(sys.modules[generated.__module__], f"add_{generated.__name__}_to_server")
        for generated in _generated(type(servicer))
    ]
    if not found:
        raise TypeError(
            f"{type(servicer).__qualname__} is no servicer: none of its classes is a generated ...Servicer"
        )
    yield from found


def _generated(kind: type) -> Iterator[type]:
    return (
        each
        for each in kind.__mro__
        if each.__module__.endswith("_pb2_grpc") and each.__name__.endswith("Servicer")
    )


def _is_plain(servicer: object) -> bool:
    """Whether one of its methods is a plain function: where some are not, the server refuses those."""
    names = {name for generated in _generated(type(servicer)) for name in vars(generated) if name[0] != "_"}
    written = (getattr(type(servicer), name) for name in names)
    return any(
        not str(each.__module__).endswith("_pb2_grpc")
        and not inspect.iscoroutinefunction(each)
        and not inspect.isasyncgenfunction(each)
        for each in written
    )
