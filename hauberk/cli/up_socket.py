"""The socket on which a running `hauberk up` is asked: what its processes do, to restart some of them.

One request a connection: a line of JSON. Answers are lines of JSON, the last of which says how it ended. The
socket lies in the state folder, for nobody but us (0600 in 0700), and whoever connects must be us, or root.
Nothing secret goes over it.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from hauberk.cli.errors import CommandFailed, NotRunning
from hauberk.cli.state import State

LONGEST_REQUEST = 64 * 1024
REQUEST_S = 5.0
"""How long the line of a request may take to come, and one of an answer to be taken."""
AT_ONCE = 8
"""Connections; one more is closed."""
_LONGEST_PATH = 100
"""Of a unix socket's name there are 104 bytes on macOS and 108 on Linux."""

_log = logging.getLogger(__name__)

Line = Mapping[str, Any]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `up` can be asked."""

    ask: Literal["children", "restart"]
    workloads: tuple[str, ...] = ()
    """To restart, in this order; none: all."""
    spare: bool = True
    """Whether a workload's only replica is stood in for while it restarts."""


class Asker:
    """Who asked. `gone` is set once it wants no more: it has left, or closed its side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.gone = asyncio.Event()

    async def request(self) -> Request:
        """Raises ValueError if what comes is none, TimeoutError."""
        async with asyncio.timeout(REQUEST_S):
            return msgspec.json.decode(await self._reader.readline(), type=Request)

    async def tell(self, line: Line) -> None:
        """Send one line of the answer; nothing, if nobody is there to take it."""
        try:
            self._writer.write(json.dumps(line).encode() + b"\n")
            async with asyncio.timeout(REQUEST_S):
                await self._writer.drain()
        except (OSError, TimeoutError):
            self.gone.set()

    async def follow(self) -> None:
        """Notice when it closes its side; what else it sends is dropped."""
        with contextlib.suppress(OSError):
            while await self._reader.read(LONGEST_REQUEST):
                pass
        self.gone.set()


Answer = Callable[[Request, Asker], Awaitable[None]]


@asynccontextmanager
async def listening(path: Path, answer: Answer, tasks: asyncio.TaskGroup) -> AsyncIterator[None]:
    """Answer on the socket `path`, in `tasks`, while the block runs. Raises OSError if it cannot be had."""
    asking: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(asking) >= AT_ONCE or not _is_ours(writer.get_extra_info("socket")):
            writer.close()
            return
        task = tasks.create_task(_answered(answer, reader, writer))
        asking.add(task)
        task.add_done_callback(asking.discard)

    bound = _bound(path)
    try:
        server = await asyncio.start_unix_server(connected, sock=bound, limit=LONGEST_REQUEST)
        try:
            yield
        finally:
            server.close()
            for task in asking:
                task.cancel()
            if asking:
                await asyncio.wait(tuple(asking))
    finally:
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - a moment, at the very end


def ask(state: State, request: Request, *, within: float) -> "Iterator[dict[str, Any]]":
    """The lines that a running `up` answers, the last one included; `within` is seconds for each.

    Raises NotRunning, or CommandFailed if the answer breaks off.
    """
    with asking(state, request, within=within) as (_, lines):
        yield from lines


@contextmanager
def asking(
    state: State, request: Request, *, within: float
) -> Iterator[tuple[socket.socket, Iterator[dict[str, Any]]]]:
    """As `ask`, with the connection: whoever closes its writing side asks for an early end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(within)
        try:
            with _named(state.socket) as name:
                connection.connect(name)
            connection.sendall(msgspec.json.encode(request) + b"\n")
        except OSError:
            raise NotRunning(
                f"no `hauberk up` runs for {state.mesh_file}", "start it: hauberk up (in another terminal)"
            ) from None
        yield connection, _lines(connection)


def _lines(connection: socket.socket) -> Iterator[dict[str, Any]]:
    with connection.makefile("rb") as file:
        try:
            for line in file:
                yield json.loads(line)
        except (OSError, ValueError) as error:
            raise CommandFailed(
                f"`hauberk up` broke its answer off: {error}", "read what it says, in its terminal"
            ) from None


async def _answered(answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    asker = Asker(reader, writer)
    try:
        async with asyncio.TaskGroup() as tasks:
            request = await asker.request()
            following = tasks.create_task(asker.follow())
            await answer(request, asker)
            following.cancel()
    except* (ValueError, TimeoutError, OSError) as unreadable:
        _log.warning("a request on the socket cannot be read: %s", unreadable.exceptions[0])
    except* Exception as failed:  # whatever it is, the mesh goes on
        _log.error("a request on the socket failed", exc_info=failed.exceptions[0])
    finally:
        writer.close()


def _bound(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # left by an `up` that was killed: the state folder is claimed by us
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _named(path) as name:
            bound.bind(name)
        path.chmod(0o600)
    except BaseException:
        bound.close()
        raise
    return bound


@contextmanager
def _named(path: Path) -> Iterator[str]:
    """A name of the socket that is short enough for the system; on Linux there always is one."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _is_ours(connection: Any) -> bool:
    """Whether the other side is our user, or root; where nothing says so, the folder's mode must do."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", peer)
    return uid in (os.geteuid(), 0)
