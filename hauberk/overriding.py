"""A process's ear for operators' overrides: heard from the control plane, enforced at once, kept on disk.

They come over a stream of their own, as trust does, and each time it is opened anew. What was enforced last
lies beside the credentials, so that a process which starts while nobody can be asked does not fall back to
its contract. What cannot be enforced is refused whole, and the control plane told why.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToJson, Parse, ParseError

from hauberk.certs import files
from hauberk.certs.errors import StoreError
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.inbound import Guard
from hauberk.interceptors.overrides import NONE, Overrides
from hauberk.protos.hauberk.control.v1 import overrides_pb2, overrides_pb2_grpc

FILE = "overrides.json"
FIRST_S = 2.0
"""How long a server that starts waits to be told; then what was enforced last is."""
PAUSE_S = 0.5
"""Between two attempts to hear, at most: what changed meanwhile is to hold soon."""
REWRITE_S = 2.0

_REMEDY = "remove it, and start while the control plane runs, which knows"

_log = logging.getLogger(__name__)


class OverrideKeeper:
    """Keeps the guards of one process as operators say, while `keep` runs."""

    def __init__(
        self, control: grpc.aio.Channel, *, replica: str, folder: Path, may_write: Callable[[], bool]
    ) -> None:
        """`folder` is the state folder; what is enforced is kept there if it is us who write there.

        Raises StoreError if what is kept there cannot be read: without it a method might be open that an
        operator has closed.
        """
        self._stub: Any = overrides_pb2_grpc.OverridesStub(control)
        self._replica = replica
        self._path = folder / FILE
        self._may_write = may_write
        self._guards: list[Guard] = []
        self.held = load(folder)
        self._kept = self.held.version
        self._writing = asyncio.Lock()
        self._tried = asyncio.Event()
        """Set once the control plane has told us, or cannot be asked."""

    async def enforce(self, guard: Guard) -> None:
        """Have what operators say enforced by `guard`, whose methods are all added, from now on.

        Raises PolicyError if it cannot be.
        """
        try:
            async with asyncio.timeout(FIRST_S):
                await self._tried.wait()
        except TimeoutError:
            _log.warning("the control plane does not say what operators override: the last they said holds")
        try:
            guard.prepare(self.held)()
        except PolicyError as error:
            raise PolicyError(f"{error}; correct [policy] in mesh.toml, then: hauberk policy apply") from None
        self._guards.append(guard)

    async def keep(self) -> None:
        """Hear of each change, for ever; the stream is opened again whenever it ends."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_hearing())
            tasks.create_task(self._keep_on_disk())

    async def _keep_hearing(self) -> None:
        while True:
            try:
                await self._hear()
            except grpc.aio.AioRpcError as error:
                _log.info("operators' overrides are not heard: %s", error.details())
            self._tried.set()
            await asyncio.sleep(PAUSE_S * random.uniform(0.5, 1.0))  # noqa: S311 - spreads processes

    async def _hear(self) -> None:
        watching = self._stub.WatchOverrides()
        try:
            await watching.write(overrides_pb2.WatchOverridesRequest(replica=self._replica))
            async for message in watching:
                refused = await self._take(message)
                self._tried.set()
                answer = overrides_pb2.WatchOverridesRequest(version=message.version, refused=refused)
                await watching.write(answer)
        except asyncio.InvalidStateError:
            pass  # it has ended between a message and its answer
        finally:
            watching.cancel()

    async def _take(self, message: overrides_pb2.WatchOverridesResponse) -> str:
        """Enforce what came, or see whether that could be; why not, or "" if all is well."""
        try:
            overrides = Overrides.of(message.overrides)
            adopt = [guard.prepare(overrides) for guard in self._guards]
        except PolicyError as error:
            if not message.trial:
                _log.error("operators' overrides are not enforced, those before them are: %s", error)
            return str(error)
        if message.trial or overrides.version == self.held.version:
            return ""
        for each in adopt:
            each()
        self.held = overrides
        _log.warning("operators override %s", ", ".join(overrides.by_method) or "nothing any more")
        await self._write()
        return ""

    async def _write(self) -> None:
        """Have on disk what is enforced. What cannot be written holds all the same."""
        async with self._writing:
            held = self.held
            if self._kept == held.version or not self._may_write():
                return
            message = overrides_pb2.WatchOverridesResponse(overrides=held.declared(), version=held.version)
            text = MessageToJson(message, preserving_proto_field_name=True)
            try:
                await asyncio.to_thread(files.replace, self._path, text.encode())
            except StoreError as error:
                _log.error("operators' overrides are not on disk, tried again until they are: %s", error)
            else:
                self._kept = held.version

    async def _keep_on_disk(self) -> None:
        """Write what could not be written when it came, and what is ours to write only now."""
        while True:
            await asyncio.sleep(REWRITE_S)
            await self._write()


def load(folder: Path) -> Overrides:
    """What was enforced last by the process of this state folder. Raises StoreError if it is unreadable."""
    path = folder / FILE
    if not path.exists():
        return NONE
    try:
        message = Parse(files.read(path), overrides_pb2.WatchOverridesResponse())
        found = Overrides.of(message.overrides)
    except (ParseError, PolicyError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is damaged: {_REMEDY}") from error
    if found.version != message.version:
        raise StoreError(f"{path} is not what was written: {_REMEDY}")
    return found
