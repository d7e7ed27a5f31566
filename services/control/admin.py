"""The servicer that operators ask: invitations, revocations, root rolls, and what there is to see."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Protocol

import grpc

from hauberk.certs import join
from hauberk.certs.clock import SetClock
from hauberk.certs.errors import IdentityError
from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.overrides import Overrides
from hauberk.protos.hauberk.control.v1 import admin_pb2, admin_pb2_grpc
from hauberk.services.control.caller import caller
from hauberk.services.control.errors import NotYet, OverridesUnfit, RequestRefused, ask
from hauberk.services.control.override_store import OverrideStore
from hauberk.services.control.overriding import Overriding, changed, spelled
from hauberk.services.control.policies import listed
from hauberk.services.control.registry import TO_PROTO
from hauberk.services.control.root_roll import RootRoll
from hauberk.services.control.roster import Roster
from hauberk.services.control.snapshot import OPERATORS
from hauberk.services.control.store import Revocation, Store
from hauberk.services.control.trust import TrustSource

DEFAULT_TTL, LONGEST_TTL = timedelta(minutes=10), timedelta(days=1)
MAX_REASON = 200
RESERVED_CONTRACTS = ("hauberk.control.", "grpc.health.", "grpc.reflection.", "envoy.")
"""The control plane's own, and what every server has: bound to nobody."""

Context = grpc.aio.ServicerContext[Any, Any]

_log = logging.getLogger(__name__)


class XdsClients(Protocol):
    """The connected xDS clients."""

    def clients(self) -> list[admin_pb2.XdsClient]: ...


class Admin(admin_pb2_grpc.AdminServicer):
    """What changes the mesh is done one at a time, and logged with who asked."""

    def __init__(
        self,
        store: Store,
        source: TrustSource,
        roster: Roster,
        clients: XdsClients,
        root_roll: RootRoll,
        overriding: Overriding,
        override_store: OverrideStore,
        *,
        svid_lifetime: timedelta,
        clock: Callable[[], datetime],
        set_clock: SetClock,
    ) -> None:
        self._store = store
        self._source = source
        self._roster = roster
        self._clients = clients
        self._root_roll = root_roll
        self._overriding = overriding
        self._override_store = override_store
        self._svid_lifetime = svid_lifetime
        self._clock = clock
        self._set_clock = set_clock
        self._changing = asyncio.Lock()

    async def Invite(  # noqa: N802 - the contract's name
        self, request: admin_pb2.InviteRequest, context: Context
    ) -> admin_pb2.InviteResponse:
        spiffe_id = self._named(request.name)
        serves = () if request.keep_bindings else _serves(spiffe_id, request.serves)
        ttl = _ttl(request)
        now = self._clock()
        try:
            token, record = join.mint(spiffe_id, serves=serves, ttl=ttl, now=now)
        except (IdentityError, ValueError) as error:
            raise RequestRefused(str(error), reason="INVITATION_REFUSED") from error
        async with self._changing:
            await ask(self._store.invite, record, keep_bindings=request.keep_bindings, now=now)
            if not request.keep_bindings:
                self._roster.rebind(await ask(self._store.bindings))
                self._source.bound(self._roster.bindings)
                self._overriding.tell()
        _log.info(
            "%s invited %s, serving %s",
            caller().spiffe_id,
            spiffe_id,
            "what it did" if request.keep_bindings else ", ".join(serves) or "nothing",
        )
        response = admin_pb2.InviteResponse(join_token=token, spiffe_id=str(spiffe_id))
        response.expires_at.FromDatetime(record.expires_at)
        return response

    async def Revoke(  # noqa: N802 - the contract's name
        self, request: admin_pb2.RevokeRequest, context: Context
    ) -> admin_pb2.RevokeResponse:
        spiffe_id, operator = self._named(request.name), caller().spiffe_id
        if spiffe_id == operator:
            raise RequestRefused("an operator cannot revoke its own name: ask another", reason="OWN_NAME")
        if spiffe_id == self._source.authority.control_id:
            raise RequestRefused("the control plane cannot be revoked: roll the root", reason="NAME_REFUSED")
        revocation = Revocation(
            spiffe_id=spiffe_id,
            reason=_reason(request.reason),
            revoked_by=str(operator),
            revoked_at=self._clock(),
        )
        async with self._changing:
            served = [contract for contract, name in self._roster.bindings.items() if name == spiffe_id]
            await ask(self._store.revoke, revocation)
            bindings = await ask(self._store.bindings)
            self._source.revoke(spiffe_id, served)
            self._roster.revoke(spiffe_id, bindings)
        _log.warning("%s revoked %s: %s", operator, spiffe_id, revocation.reason or "no reason given")
        return admin_pb2.RevokeResponse(spiffe_id=str(spiffe_id))

    async def Reinstate(  # noqa: N802 - the contract's name
        self, request: admin_pb2.ReinstateRequest, context: Context
    ) -> admin_pb2.ReinstateResponse:
        spiffe_id = self._named(request.name)
        if self._set_clock.ahead > timedelta(0):  # set right again, it would find them good once more
            raise NotYet(
                f"{self._set_clock}: whether the certificates of {spiffe_id} have ended cannot be told",
                reason="CLOCK_SET",
            )
        async with self._changing:
            await ask(self._store.reinstate, spiffe_id, self._clock(), lifetime=self._svid_lifetime)
            self._source.reinstate(spiffe_id)
            self._roster.reinstate(spiffe_id)
        _log.warning("%s reinstated %s", caller().spiffe_id, spiffe_id)
        return admin_pb2.ReinstateResponse(spiffe_id=str(spiffe_id))

    async def ListReplicas(  # noqa: N802 - the contract's name
        self, request: admin_pb2.ListReplicasRequest, context: Context
    ) -> admin_pb2.ListReplicasResponse:
        response = admin_pb2.ListReplicasResponse()
        for each in self._roster.replicas():
            response.replicas.add(
                spiffe_id=str(each.spiffe_id),
                replica=each.replica,
                address=each.address,
                status=TO_PROTO[each.status],
                contracts=each.contracts,
                agent=each.agent,
            ).svid_expires_at.FromDatetime(each.svid_expires_at)
        return response

    async def ListPolicies(  # noqa: N802 - the contract's name
        self, request: admin_pb2.ListPoliciesRequest, context: Context
    ) -> admin_pb2.ListPoliciesResponse:
        return admin_pb2.ListPoliciesResponse(methods=listed(self._roster, self._overriding, request.filter))

    async def ApplyOverrides(  # noqa: N802 - the contract's name
        self, request: admin_pb2.ApplyOverridesRequest, context: Context
    ) -> admin_pb2.ApplyOverridesResponse:
        wanted, operator = _overrides(request), str(caller().spiffe_id)
        async with self._changing:
            methods = changed(self._overriding.in_force, wanted)
            if refused := await self._overriding.try_out(wanted):
                raise OverridesUnfit(spelled(refused))
            if methods:
                await ask(self._override_store.replace, wanted, changed_by=operator, now=self._clock())
            done, late = await self._overriding.enforce(wanted)
            if methods:
                self._roster.overridden()
                _log.warning("%s overrides %s", operator, ", ".join(methods))
        return admin_pb2.ApplyOverridesResponse(
            version=wanted.version, changed=methods, enforced_by=done, late=late
        )

    async def ListClients(  # noqa: N802 - the contract's name
        self, request: admin_pb2.ListClientsRequest, context: Context
    ) -> admin_pb2.ListClientsResponse:
        return admin_pb2.ListClientsResponse(clients=self._clients.clients())

    async def ListRoots(  # noqa: N802 - the contract's name
        self, request: admin_pb2.ListRootsRequest, context: Context
    ) -> admin_pb2.ListRootsResponse:
        return admin_pb2.ListRootsResponse(roots=self._roots(), roll=await self._root_roll.stands())

    async def RollRoot(  # noqa: N802 - the contract's name
        self, request: admin_pb2.RollRootRequest, context: Context
    ) -> admin_pb2.RollRootResponse:
        authority = self._source.authority
        steps = {
            admin_pb2.RollRootRequest.STEP_PREPARE: authority.prepare,
            admin_pb2.RollRootRequest.STEP_ACTIVATE: authority.activate,
            admin_pb2.RollRootRequest.STEP_RETIRE: authority.retire,
        }
        if request.step not in steps:
            raise RequestRefused(f"not a step of the root roll: {request.step}", reason="STEP_REFUSED")
        async with self._changing:
            if request.step == admin_pb2.RollRootRequest.STEP_RETIRE:
                await self._check_nobody_needs_the_old_root()
            await self._source.roll(steps[request.step])
        _log.warning("%s: root roll: %s", caller().spiffe_id, steps[request.step].__name__)
        return admin_pb2.RollRootResponse(roots=self._roots(), roll=await self._root_roll.stands())

    async def _check_nobody_needs_the_old_root(self) -> None:
        left = await self._root_roll.of_the_old_root()
        if left:
            count, until = sum(held.certificates for held in left), max(held.until for held in left)
            raise NotYet(
                f"{count} certificates under the old root are still valid: "
                f"retire after {until:%Y-%m-%dT%H:%M:%SZ}, when the last of them has ended; of "
                f"{', '.join(held.spiffe_id.name for held in left)}",
                reason="OLD_ROOT_IN_USE",
            )

    def _roots(self) -> list[admin_pb2.Root]:
        return [
            admin_pb2.Root(
                state=root.state.value,
                fingerprint=root.fingerprint,
                not_before=root.not_before,
                not_after=root.not_after,
            )
            for root in self._source.authority.roots(self._clock())
        ]

    def _named(self, name: str) -> SpiffeId:
        try:
            return SpiffeId.of(self._source.authority.trust_domain, name)
        except IdentityError as error:
            raise RequestRefused(str(error), reason="NAME_REFUSED") from error


def _serves(spiffe_id: SpiffeId, contracts: Iterable[str]) -> tuple[str, ...]:
    serves = tuple(sorted(set(contracts)))
    if serves and OPERATORS.matches(spiffe_id, spiffe_id.trust_domain):
        raise RequestRefused(
            "operators serve nothing: invite them without contracts", reason="INVITATION_REFUSED"
        )
    for contract in serves:
        if contract.startswith(RESERVED_CONTRACTS):
            raise RequestRefused(
                f"contract can be bound to nobody: {contract:.99}", reason="INVITATION_REFUSED"
            )
    return serves


def _overrides(request: admin_pb2.ApplyOverridesRequest) -> Overrides:
    try:
        wanted = Overrides.of(request.overrides)
    except PolicyError as error:
        raise RequestRefused(str(error), reason="OVERRIDES_REFUSED") from error
    for method, override in wanted.by_method.items():
        if f"{override.service}.".startswith(RESERVED_CONTRACTS):
            raise RequestRefused(
                f"{method} is the control plane's own, or every server's: it is not overridden",
                reason="OVERRIDES_REFUSED",
            )
    return wanted


def _ttl(request: admin_pb2.InviteRequest) -> timedelta:
    if not request.HasField("ttl"):
        return DEFAULT_TTL
    seconds = request.ttl.seconds + request.ttl.nanos / 1e9
    if not 0 < seconds <= LONGEST_TTL.total_seconds():
        raise RequestRefused(
            f"ttl is not over 0 and at most a day: {seconds:g} s", reason="INVITATION_REFUSED"
        )
    return timedelta(seconds=seconds)


def _reason(text: str) -> str:
    if len(text) > MAX_REASON or not (text.isprintable() or not text):
        raise RequestRefused(
            f"reason is not at most {MAX_REASON} printable characters", reason="REASON_REFUSED"
        )
    return text
