"""The servicer that processes hear operators' overrides from, and what each of them makes of it.

A process is told of the contracts bound to its name and of no others. Before anything changes, everybody
whom it would change is asked whether it could be enforced; one that says no, and nothing changes anywhere.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import grpc

from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.overrides import NONE, Overrides
from hauberk.interceptors.policy import Policy
from hauberk.protos.hauberk.control.v1 import overrides_pb2, overrides_pb2_grpc
from hauberk.racing import first_of
from hauberk.services.control.caller import caller
from hauberk.services.control.errors import RequestRefused
from hauberk.services.control.snapshot import Contract

ANSWER_S = 2.0
"""How long processes may take to answer, while an operator waits."""
FIRST_S = 10.0
MAX_REPLICA_NAME, MAX_COMPLAINT = 64, 500

Bindings = Callable[[], Mapping[str, SpiffeId]]
Context = grpc.aio.ServicerContext[Any, Any]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Sent:
    """What a process was told, and what it will say to that: why not, or "" if all is well."""

    overrides: Overrides
    trial: bool
    answer: asyncio.Future[str]


class _Watcher:
    """One stream of one replica. Answers come in the order of what was sent."""

    def __init__(self, spiffe_id: SpiffeId, replica: str) -> None:
        self.spiffe_id = spiffe_id
        self.replica = replica
        self.told: Overrides | None = None
        """What it is to enforce."""
        self.enforced: Overrides | None = None
        """What it says that it enforces."""
        self.outbox: asyncio.Queue[_Sent] = asyncio.Queue()
        self.unanswered: deque[_Sent] = deque()

    def __str__(self) -> str:
        return f"{self.spiffe_id}#{self.replica}"

    def tell(self, overrides: Overrides, *, trial: bool = False) -> asyncio.Future[str]:
        sent = _Sent(overrides, trial, asyncio.get_running_loop().create_future())
        if not trial:
            self.told = overrides
        self.outbox.put_nowait(sent)
        return sent.answer

    def leave(self) -> None:
        """It will answer nothing more."""
        while not self.outbox.empty():
            self.unanswered.append(self.outbox.get_nowait())
        for sent in self.unanswered:
            sent.answer.cancel()

    def heard(self, message: overrides_pb2.WatchOverridesRequest) -> None:
        if not self.unanswered or message.version != self.unanswered[0].overrides.version:
            raise _refused("an answer to what was not asked")
        sent = self.unanswered.popleft()
        refused = message.refused[:MAX_COMPLAINT]
        if not sent.trial:
            if refused:
                _log.error("%s does not enforce the overrides it was told: %s", self, refused)
            else:
                self.enforced = sent.overrides
        if not sent.answer.done():
            sent.answer.set_result(refused)


class Overriding(overrides_pb2_grpc.OverridesServicer):
    """The overrides in force, and the processes that enforce them. Lives in one event loop."""

    def __init__(self, in_force: Overrides, bindings: Bindings) -> None:
        """`bindings` says which name serves each contract."""
        self.in_force = in_force
        self._bindings = bindings
        self._watchers: set[_Watcher] = set()

    async def WatchOverrides(  # type: ignore[override]  # noqa: N802 - a coroutine: it writes by the context
        self, request_iterator: AsyncIterator[overrides_pb2.WatchOverridesRequest], context: Context
    ) -> None:
        watcher = _Watcher(caller().spiffe_id, await _replica(request_iterator))
        watcher.tell(self._of(watcher))
        self._watchers.add(watcher)
        try:
            await first_of(_tell(watcher, context), _hear(watcher, request_iterator))
        finally:
            self._watchers.discard(watcher)
            watcher.leave()

    async def try_out(self, wanted: Overrides) -> dict[str, str]:
        """Ask everybody whom `wanted` would change; by replica, why it cannot be enforced there.

        Who does not answer in time has nothing against it.
        """
        asked = {
            str(each): each.tell(new, trial=True)
            for each in self._watchers
            if (new := self._of(each, wanted)) != each.told
        }
        answered = await _answered(asked)
        return {name: said for name, said in answered.items() if said}

    async def enforce(self, wanted: Overrides) -> tuple[list[str], list[str]]:
        """Put `wanted` in force; the replicas that enforce what has changed, and those that have not said so
        in time.
        """
        self.in_force = wanted
        told = self.tell()
        answered = await _answered(told)
        done = sorted(name for name, said in answered.items() if not said)
        return done, sorted(told.keys() - done)

    def tell(self) -> dict[str, asyncio.Future[str]]:
        """Tell everybody for whom something has changed, be it what it may serve; by replica, its answer."""
        return {str(each): each.tell(new) for each in self._watchers if (new := self._of(each)) != each.told}

    def enforced(self, spiffe_id: SpiffeId, replica: str) -> Overrides:
        """What this replica says that it enforces; before it has said anything, none."""
        said = [
            each.enforced
            for each in self._watchers
            if (each.spiffe_id, each.replica) == (spiffe_id, replica) and each.enforced is not None
        ]
        return said[-1] if said else NONE

    def over(self, contract: Contract) -> Contract:
        """The contract as it is overridden, for the routes to its methods."""
        methods = {name: self._policy(policy) for name, policy in contract.methods.items()}
        return contract if methods == contract.methods else replace(contract, methods=methods)

    def _policy(self, policy: Policy) -> Policy:
        try:
            return self.in_force.over(policy)
        except PolicyError as error:  # it is said of another version of the contract, and not enforced here
            _log.warning("routes are as the contract says: %s", error)
            return policy

    def _of(self, watcher: _Watcher, overrides: Overrides | None = None) -> Overrides:
        """Those of the contracts that this one may serve."""
        bindings = self._bindings()
        found = overrides or self.in_force
        services = {each.service for each in found.by_method.values()}
        return found.of_services(each for each in services if bindings.get(each) == watcher.spiffe_id)


async def _tell(watcher: _Watcher, context: Context) -> None:
    while True:
        sent = await watcher.outbox.get()
        watcher.unanswered.append(sent)
        await context.write(
            overrides_pb2.WatchOverridesResponse(
                overrides=sent.overrides.declared(), version=sent.overrides.version, trial=sent.trial
            )
        )


async def _hear(watcher: _Watcher, requests: AsyncIterator[overrides_pb2.WatchOverridesRequest]) -> None:
    async for message in requests:
        watcher.heard(message)


async def _replica(requests: AsyncIterator[overrides_pb2.WatchOverridesRequest]) -> str:
    try:
        async with asyncio.timeout(FIRST_S):
            message = await anext(aiter(requests), None)
    except TimeoutError:
        message = None
    name = "" if message is None else message.replica
    if not name or len(name) > MAX_REPLICA_NAME or not name.isprintable():
        raise _refused(f"replica is not 1 to {MAX_REPLICA_NAME} printable characters: {name!r:.99}")
    return name


async def _answered(asked: Mapping[str, asyncio.Future[str]]) -> dict[str, str]:
    """The answers that come in time."""
    if asked:
        await asyncio.wait(asked.values(), timeout=ANSWER_S)
    return {
        name: answer.result() for name, answer in asked.items() if answer.done() and not answer.cancelled()
    }


def spelled(refused: Mapping[str, str]) -> str:
    """Who cannot enforce it and why, on one line: the first, and how many more."""
    (name, why), *more = sorted(refused.items())
    return f"{name.rpartition('/')[2]} cannot enforce it: {why}" + (
        f" (and {len(more)} more)" if more else ""
    )


def changed(before: Overrides, after: Overrides) -> list[str]:
    """The methods whose override is another."""
    methods: Iterable[str] = before.by_method.keys() | after.by_method.keys()
    return sorted(method for method in methods if before.by_method.get(method) != after.by_method.get(method))


def _refused(why: str) -> RequestRefused:
    return RequestRefused(why, reason="OVERRIDES_REFUSED")
