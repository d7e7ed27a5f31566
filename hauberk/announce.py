"""A server's place in the mesh: the stream that tells the control plane where we are and what we serve.

The stream is the lease. It ends with its connection, and that by age: the next one is opened as soon as the
connection is left, while the old stream still runs, so that callers notice nothing. A stream that is lost is
opened again, at first at once.
"""

import asyncio
import contextlib
import logging
import platform
import random
import socket
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from hauberk.certs.watch import Watch
from hauberk.direct import DirectChannel
from hauberk.errors import AnnounceRefused, SettingsError
from hauberk.protos.hauberk.control.v1 import registry_pb2, registry_pb2_grpc
from hauberk.racing import first_of
from hauberk.reflection import files_of, with_imports
from hauberk.settings import parse_address

_log = logging.getLogger(__name__)

Status = registry_pb2.ServingStatus
UNSPECIFIED = registry_pb2.SERVING_STATUS_UNSPECIFIED
SERVING = registry_pb2.SERVING_STATUS_SERVING
DRAINING = registry_pb2.SERVING_STATUS_DRAINING

PATIENCE_S = 5.0
"""How long a start waits to be announced; after that it goes on in the background."""
TELL_S = 1.0
"""How long a server that drains goes on taking calls while callers are told."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0
"""With the channel's own longest pause this is under 3 s, and so long control lists a replica that has no
stream: one that was frozen, and lost every stream at once, has nothing to tell callers.
"""
REFUSED_PAUSE_S = 30.0
_EVERY_ADDRESS = frozenset({"0.0.0.0", "[::]", "*"})  # noqa: S104 - compared, not bound
_REFUSALS = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT})


def advertised(address: str, advertise: str | None) -> str:
    """What callers are told to connect to: an IP address, as endpoints over xDS must be. May ask DNS.

    Raises SettingsError if nobody could connect to it.
    """
    host, port = parse_address(address)
    if advertise is not None and ":" in advertise:
        host, port = parse_address(advertise)
    elif advertise is not None:
        host = advertise
    elif host in _EVERY_ADDRESS:
        raise SettingsError(f"HAUBERK_ADVERTISE is missing: {host} cannot be dialled; set it to our address")
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SettingsError(f"HAUBERK_ADVERTISE: {host} has no address: {error.strerror}") from error
    family, *_, sockaddr = min(found, key=lambda each: each[0] is not socket.AF_INET)
    return f"{sockaddr[0]}:{port}" if family is socket.AF_INET else f"[{sockaddr[0]}]:{port}"


def offer(address: str, contracts: Sequence[str], replica: str) -> registry_pb2.Offer:
    """What is announced: the contracts with all they import, as this process has them loaded."""
    described = FileDescriptorSet()
    for file in with_imports(files_of(contracts)):
        file.CopyToProto(described.file.add())
    return registry_pb2.Offer(
        replica=replica,
        address=address,
        contracts=contracts,
        descriptors=described.SerializeToString(),
        agent=f"hauberk {metadata.version('hauberk')} python {platform.python_version()}",
    )


class _Stream:
    """One Announce call."""

    def __init__(self, call: Any, in_force: Watch[Status]) -> None:
        self._call = call
        self._in_force = in_force
        self._writing = asyncio.Lock()
        self.answered = asyncio.Event()
        self.over = asyncio.Event()
        self.error: grpc.aio.AioRpcError | None = None

    async def hold(self, offer: registry_pb2.Offer, status: Status) -> None:
        """Announce, then hear what is in force, until the stream ends. Raises nothing of the call's."""
        try:
            await self._write(registry_pb2.AnnounceRequest(offer=offer, status=status))
            async for answer in self._call:
                self._in_force.set(answer.status)
                self.answered.set()
        except grpc.aio.AioRpcError as error:
            self.error = error
        finally:
            self._call.cancel()
            self.over.set()

    async def report(self, status: Status) -> None:
        """Say that `status` has changed; a stream that is lost meanwhile says nothing, the next one will."""
        try:
            await self._write(registry_pb2.AnnounceRequest(status=status))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # it is we who are to stop, and not the stream that gave way to the next one

    async def settled(self) -> None:
        """Wait for the first answer, or the end."""
        await first_of(self.answered.wait(), self.over.wait())

    def cancel(self) -> None:
        self._call.cancel()

    async def _write(self, request: registry_pb2.AnnounceRequest) -> None:
        async with self._writing:
            await self._call.write(request)


class RegistryAnnouncement:
    """One announced server. `run` keeps its stream open and must be running."""

    def __init__(
        self, control: DirectChannel, registry: grpc.aio.Channel, offered: registry_pb2.Offer
    ) -> None:
        """`registry` is `control` as calls are made over it; `control` tells when its connection is left."""
        self._control = control
        self._stub: Any = registry_pb2_grpc.RegistryStub(registry)
        self._offer = offered
        self._wanted: Status = SERVING
        self._in_force: Watch[Status] = Watch(UNSPECIFIED)
        self._stream: _Stream | None = None
        self._established = asyncio.Event()
        self._refused: AnnounceRefused | None = None
        self._ended = asyncio.Event()

    async def established(self) -> None:
        """Wait, a few seconds at most, until callers are sent here. Raises AnnounceRefused."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._established.wait()
        if self._refused is not None:
            raise self._refused
        if not self._established.is_set():
            _log.warning("%s does not answer: nobody new is sent here yet, trying on", self._control.target)

    async def withdraw(self) -> bool:
        """Report DRAINING, and wait until callers have been told, for a second at most; whether they have.

        Where the stream is just being opened anew, the next one says it.
        """
        self._wanted = DRAINING
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TELL_S):
                if self._stream is not None and not self._stream.over.is_set():
                    await self._stream.report(DRAINING)
                async for status in self._in_force.changes():
                    if status == DRAINING:
                        return True
        return False

    async def end(self) -> None:
        """End the stream, and `run`."""
        self._ended.set()

    async def run(self) -> None:
        """Keep a stream open until `end`."""
        failed = 0
        async with asyncio.TaskGroup() as holding:
            try:
                while not self._ended.is_set():
                    stream = _Stream(self._stub.Announce(), self._in_force)
                    holding.create_task(stream.hold(self._offer, self._wanted))
                    await first_of(stream.settled(), self._ended.wait())
                    if stream.answered.is_set():
                        self._take_over(stream, lost=failed > 0)
                        failed = 0
                        await first_of(stream.over.wait(), self._control.moved(), self._ended.wait())
                    else:
                        failed += 1
                        stream.cancel()
                        await first_of(asyncio.sleep(self._pause(stream, failed)), self._ended.wait())
            finally:
                if self._stream is not None:
                    self._stream.cancel()

    def _take_over(self, stream: _Stream, *, lost: bool) -> None:
        old, self._stream = self._stream, stream
        if old is not None:
            old.cancel()
        if lost or not self._established.is_set():
            _log.info("announced at %s as %s", self._control.target, self._offer.address)
        self._refused = None
        self._established.set()

    def _pause(self, stream: _Stream, failed: int) -> float:
        """What to make of a stream that ended without an answer: seconds until the next."""
        error = stream.error
        if error is not None and error.code() in _REFUSALS:
            self._refused = AnnounceRefused(
                f"announcing {', '.join(self._offer.contracts)} was refused: {error.details()}"
            )
            if self._established.is_set():
                _log.error("%s; trying again in %g s", self._refused, REFUSED_PAUSE_S)
            self._established.set()
            return REFUSED_PAUSE_S
        said = "closed without an answer" if error is None else error.details()
        _log.warning("lost the control plane's registry at %s: %s", self._control.target, said)
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failed, 10))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads processes, hides nothing
