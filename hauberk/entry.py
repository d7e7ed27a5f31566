"""The block in which a process is a member: `async with hauberk.join() as mesh`."""

import asyncio
import logging
import os
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hauberk.certs.clock import utc_now
from hauberk.certs.errors import CertsError
from hauberk.errors import JoinFailed
from hauberk.joining import Clock, become_member
from hauberk.memory import few_heaps
from hauberk.mesh import Mesh
from hauberk.settings import Settings
from hauberk.tenure import Tenure
from hauberk.token_issuers import Believed
from hauberk.tokens import JoinTokens

_log = logging.getLogger(__name__)

_CIPHERS = "GRPC_SSL_CIPHER_SUITES"


class join:  # noqa: N801 - read as the verb it is: `async with join() as mesh`
    """Joins the mesh for the length of an `async with` block.

    `settings` default to those of the environment; `overrides` are single fields of them. Raises JoinFailed
    or SettingsError with one line to act on; on leaving, MembershipEnded if the identity was lost meanwhile.
    All that runs in the background belongs to the block and is gone after it.
    """

    def __init__(self, settings: Settings | None = None, *, clock: Clock = utc_now, **overrides: Any) -> None:
        self._settings = settings
        self._overrides = overrides
        self._clock = clock
        self._tasks = asyncio.TaskGroup()
        self._mesh: Mesh | None = None

    if not TYPE_CHECKING:  # a type checker says as much by itself

        def __enter__(self):
            raise TypeError("joining takes `async with`: async with hauberk.join() as mesh")

        def __exit__(self, *_):
            """Never reached; without it `with` would not ask for the above."""

        def __getattr__(self, name):
            if hasattr(Mesh, name):
                raise AttributeError(
                    f"join() is not the mesh yet: async with hauberk.join() as mesh, then mesh.{name}"
                )
            raise AttributeError(f"join has no attribute {name!r}")

    async def __aenter__(self) -> Mesh:
        few_heaps()
        if self._settings is None:
            settings = Settings.load(**self._overrides)
        else:
            settings = replace(self._settings, **self._overrides)
        if _CIPHERS not in os.environ:
            _log.warning(
                "%s is not set: servers of this process negotiate TLS 1.2, then refuse it; start it with "
                "%s=ECDHE-RSA-AES256-GCM-SHA384, as `hauberk up` does",
                _CIPHERS,
                _CIPHERS,
            )
        believed = await asyncio.to_thread(Believed.of, settings.token_issuers)
        tokens = JoinTokens(settings.join_token_fd, settings.join_token_file)
        await tokens.read()
        joined = await become_member(settings, tokens, self._clock)
        try:
            tenure = Tenure(settings, joined, tokens, self._clock)
        except CertsError as error:
            if joined.lock is not None:
                joined.lock.release()
            raise JoinFailed(str(error)) from error
        try:
            self._mesh = Mesh(settings, tenure, self._tasks, believed)
        except BaseException:
            await tenure.close()
            raise
        await self._tasks.__aenter__()
        self._mesh._begin()
        return self._mesh

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._mesh is not None  # noqa: S101 - entered, or we would not leave
        try:
            ended = await self._mesh._leave()
        finally:
            # Only a cancellation is the group's to judge: it may be its own, when a task of it has failed.
            cancelled = isinstance(error, asyncio.CancelledError)
            await self._tasks.__aexit__(*((kind, error, trace) if cancelled else (None, None, None)))
        if error is None and ended is not None:
            raise ended
