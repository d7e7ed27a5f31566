"""The servicer that replicas announce themselves to: where they are, what they serve, how they are."""

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from hauberk.certs.identity import LeafIdentity
from hauberk.certs.watch import Watch
from hauberk.interceptors.errors import Refused
from hauberk.protos.hauberk.control.v1 import registry_pb2, registry_pb2_grpc
from hauberk.services.control.caller import caller
from hauberk.services.control.contracts import Announced, read_contracts
from hauberk.services.control.errors import NameRevoked, NotBound, NotPublished, RequestRefused
from hauberk.services.control.roster import End, Lease, Roster
from hauberk.services.control.snapshot import OPERATORS, Replica, Snapshot, Status, parse_address

FIRST_OFFER_S = 10.0
PUBLISHED_S = 5.0
MAX_CONTRACTS = 100
MAX_REPLICA_NAME, MAX_AGENT = 64, 200

Context = grpc.aio.ServicerContext[Any, Any]

_log = logging.getLogger(__name__)
_READERS = ThreadPoolExecutor(2, thread_name_prefix="contracts")
"""Threads of their own: descriptors that take long hold up no renewal, a store that hangs no announcement."""
_STATUS = {
    registry_pb2.SERVING_STATUS_SERVING: Status.SERVING,
    registry_pb2.SERVING_STATUS_NOT_SERVING: Status.NOT_SERVING,
    registry_pb2.SERVING_STATUS_DRAINING: Status.DRAINING,
}
TO_PROTO = {status: number for number, status in _STATUS.items()}
"""The wire's number of each serving status."""


class Registry(registry_pb2_grpc.RegistryServicer):
    """Keeps the roster by what streams say, and answers once callers have been told."""

    def __init__(self, roster: Roster, snapshots: Watch[Snapshot]) -> None:
        self._roster = roster
        self._snapshots = snapshots

    async def Announce(  # type: ignore[override]  # noqa: N802 - a coroutine: it writes by the context
        self, request_iterator: AsyncIterator[registry_pb2.AnnounceRequest], context: Context
    ) -> None:
        peer = caller()
        try:
            await self._announced(peer, request_iterator, context)
        except NotBound as refusal:
            _log.warning("alarm: %s", refusal.message)
            raise
        except RequestRefused as refusal:
            _log.warning("announcement of %s refused: %s", peer.spiffe_id, refusal.message)
            raise

    async def _announced(
        self,
        peer: LeafIdentity,
        requests: AsyncIterator[registry_pb2.AnnounceRequest],
        context: Context,
    ) -> None:
        replica, contracts = await self._offer(peer, await _first(requests))
        lease = self._roster.take(replica, contracts)
        try:
            async with asyncio.timeout(None) as held:
                lease.on_end = lambda: held.reschedule(asyncio.get_running_loop().time())
                await self._answer(replica, context)
                async for message in requests:
                    if message.HasField("offer"):
                        raise _refused("an offer comes in the first message only")
                    now_listed = self._roster.report(lease, _status(message.status))
                    if now_listed is None:
                        return
                    await self._answer(now_listed, context)
        except TimeoutError:
            if lease.end is None:
                raise
            if (why := _because(lease)) is not None:
                raise why from None
        finally:
            self._roster.leave(lease)

    async def _offer(
        self, peer: LeafIdentity, message: registry_pb2.AnnounceRequest
    ) -> tuple[Replica, tuple[Announced, ...]]:
        """What the first message offers, checked: first who may serve it, then what it says."""
        offer = message.offer
        services = tuple(sorted(set(offer.contracts)))
        if len(services) > MAX_CONTRACTS:
            raise _refused(f"{len(services)} contracts are offered, at most {MAX_CONTRACTS} may be")
        if OPERATORS.matches(peer.spiffe_id, peer.spiffe_id.trust_domain):
            raise NotBound(f"{peer.spiffe_id} announced itself, but operators serve nothing")
        self._roster.check_bound(peer.spiffe_id, services)
        loop = asyncio.get_running_loop()
        contracts = await loop.run_in_executor(_READERS, read_contracts, offer.descriptors, services)
        replica = Replica(
            spiffe_id=peer.spiffe_id,
            replica=_text("replica", offer.replica, MAX_REPLICA_NAME),
            address=_address(offer.address),
            status=_status(message.status or registry_pb2.SERVING_STATUS_SERVING),
            agent=_text("agent", offer.agent or "unknown", MAX_AGENT),
            svid_expires_at=peer.not_after,
            contracts=services,
            policy_versions={each.contract.service: each.contract.version for each in contracts},
        )
        return replica, contracts

    async def _answer(self, replica: Replica, context: Context) -> None:
        """Tell the replica its status once callers are told of it."""
        try:
            async with asyncio.timeout(PUBLISHED_S):
                async for snapshot in self._snapshots.changes():
                    if _shows(snapshot, replica):
                        break
        except TimeoutError:
            raise NotPublished("callers were not told in time; the control plane's log says why") from None
        await context.write(registry_pb2.AnnounceResponse(status=TO_PROTO[replica.status]))


async def _first(requests: AsyncIterator[registry_pb2.AnnounceRequest]) -> registry_pb2.AnnounceRequest:
    try:
        async with asyncio.timeout(FIRST_OFFER_S):
            message = await anext(aiter(requests), None)
    except TimeoutError:
        raise _refused(f"no offer came within {FIRST_OFFER_S:g} s") from None
    if message is None or not message.HasField("offer"):
        raise _refused("the first message holds no offer")
    return message


def _shows(snapshot: Snapshot, replica: Replica) -> bool:
    workload = snapshot.workloads.get(replica.spiffe_id.name)
    return workload is not None and any(
        (each.replica, each.address, each.status) == (replica.replica, replica.address, replica.status)
        for each in workload.replicas
    )


def _because(lease: Lease) -> Refused | None:
    ended: dict[End | None, Refused] = {
        "revoked": NameRevoked(f"{lease.key[0]} was revoked"),
        "unbound": NotBound(f"a contract that {lease.key[0]} announced is no longer bound to it"),
    }
    return ended.get(lease.end)


def _status(number: int) -> Status:
    for known, status in _STATUS.items():
        if known == number:
            return status
    raise _refused(f"not a serving status: {number}")


def _address(text: str) -> str:
    try:
        host, _ = parse_address(text)
    except ValueError as error:
        raise _refused(str(error)) from error
    address = ipaddress.ip_address(host)
    if address.is_unspecified or address.is_multicast:
        raise _refused(f"no caller can connect to this address: {text}; set HAUBERK_ADVERTISE")
    return text


def _text(field: str, text: str, longest: int) -> str:
    if not text or len(text) > longest or not text.isprintable():
        raise _refused(f"{field} is not 1 to {longest} printable characters: {text!r:.99}")
    return text


def _refused(why: str) -> RequestRefused:
    return RequestRefused(why, reason="OFFER_REFUSED")
