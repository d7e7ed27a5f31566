"""What the next step of the root roll waits for: who has not been told yet, who still holds what it ends.

Who was told is known by the trust streams that are open now, one for each process. A process that has none
counts as not told until its certificates have ended: it may be cut off from us alone, and live. How many
processes a name has is known by what they announced; of those that serve nothing, one is known.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from hauberk.certs.identity import SpiffeId
from hauberk.certs.roots import RootState
from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.services.control.errors import ask
from hauberk.services.control.roster import Roster
from hauberk.services.control.store import Holder, Store
from hauberk.services.control.trust import TrustSource

ACTS_S = 1.0
"""Within it a process has done what it was told over its trust stream."""


class Audience:
    """The open trust streams, and which version of trust each was sent last."""

    def __init__(self) -> None:
        self._told: dict[SpiffeId, dict[object, str]] = {}

    @contextmanager
    def listening(self, spiffe_id: SpiffeId) -> Iterator[Callable[[str], None]]:
        """One stream, open until the block is left; call what is given with each version sent."""
        stream = object()
        streams = self._told.setdefault(spiffe_id, {})
        streams[stream] = ""
        try:
            yield lambda version: streams.update({stream: version})
        finally:
            del streams[stream]
            if not streams:
                del self._told[spiffe_id]

    def heard(self, spiffe_id: SpiffeId, version: str, *, processes: int) -> bool:
        """Whether every stream of this name was sent `version`, and there are as many as it has processes."""
        sent = list(self._told.get(spiffe_id, {}).values())
        return len(sent) >= max(1, processes) and all(each == version for each in sent)


class RootRoll:
    """Where the roll stands."""

    def __init__(
        self,
        store: Store,
        source: TrustSource,
        roster: Roster,
        audience: Audience,
        *,
        watcher_refresh: float,
        clock: Callable[[], datetime],
    ) -> None:
        """`watcher_refresh` is how many seconds files may be as they were before they are read again."""
        self._store = store
        self._source = source
        self._roster = roster
        self._audience = audience
        self._settle = timedelta(seconds=watcher_refresh + ACTS_S)
        self._clock = clock

    async def stands(self) -> admin_pb2.RootRoll:
        """The next step, and whom it would cut off now."""
        roll = admin_pb2.RootRoll(next=admin_pb2.RollRootRequest.STEP_PREPARE)
        roll.settle.FromTimedelta(self._settle)
        states = {root.state for root in self._source.authority.roots(self._clock())}
        if RootState.PREPARED in states:
            roll.next = admin_pb2.RollRootRequest.STEP_ACTIVATE
            roll.waiting_for.extend(map(self._described, await self._not_told()))
        elif RootState.RETIRING in states:
            roll.next = admin_pb2.RollRootRequest.STEP_RETIRE
            roll.waiting_for.extend(map(self._described, await self.of_the_old_root()))
        return roll

    async def of_the_old_root(self) -> list[Holder]:
        """Whose certificates of a root that retires are valid; they could not even renew without it."""
        if not self._since(RootState.RETIRING):
            return []
        return await self._holding(RootState.ACTIVE)

    async def _not_told(self) -> list[Holder]:
        version = self._source.message().version
        return [
            held
            for held in await self._holding(RootState.PREPARED)
            if not self._audience.heard(
                held.spiffe_id, version, processes=self._roster.processes(held.spiffe_id)
            )
        ]

    async def _holding(self, state: RootState) -> list[Holder]:
        """Who has valid certificates from before the root in this state came into it."""
        (since,) = self._since(state)
        return await ask(self._store.holders, issued_before=since, now=self._clock())

    def _since(self, state: RootState) -> list[datetime]:
        return [root.since for root in self._source.authority.roots(self._clock()) if root.state is state]

    def _described(self, held: Holder) -> admin_pb2.Holder:
        described = admin_pb2.Holder(
            spiffe_id=str(held.spiffe_id),
            certificates=held.certificates,
            replicas=[
                replica.replica
                for replica in self._roster.replicas()
                if replica.spiffe_id == held.spiffe_id and replica.svid_expires_at <= held.until
            ],
        )
        described.until.FromDatetime(held.until)
        return described
