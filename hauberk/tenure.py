"""A member's stay in the mesh: its identity is kept fresh, its trust current, its end noticed.

Who holds the state folder's lock renews and writes; a follower reads what it writes, and takes over when the
lock comes free.
"""

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc

from hauberk.absence import Absence
from hauberk.certs.clock import LOOK_S, SetClock, tell_of_clock
from hauberk.certs.credentials import Credentials
from hauberk.certs.errors import CertsError, StoreError, SvidError, SvidExpired, SvidNotYetValid
from hauberk.certs.rotation import RenewalFailed, Rotated, Schedule, keep_fresh
from hauberk.certs.watch import Watch
from hauberk.direct import DirectChannel
from hauberk.enrolment import renew, trust_of
from hauberk.errors import JoinFailed, MembershipEnded, MeshError
from hauberk.hints import Hints, is_refusal_of_svid, reason_of
from hauberk.interceptors.outbound import guarded
from hauberk.interceptors.peer import Trust
from hauberk.joining import Clock, Joined, enrol_and_store
from hauberk.membership import Membership
from hauberk.protos.hauberk.control.v1 import enrolment_pb2, enrolment_pb2_grpc
from hauberk.settings import Settings
from hauberk.tokens import JoinTokens

_log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
HEAR_PAUSE_S = 1.0
"""Between attempts to hear of trust: who was revoked while control was away is to be refused soon after."""
FOLLOW_S = 1.0
REWRITE_S = 2.0


class Tenure:
    """Keeps `credentials` and `trust` current while `keep` runs. `close` when it has ended."""

    def __init__(self, settings: Settings, joined: Joined, tokens: JoinTokens, now: Clock) -> None:
        svid = joined.credentials.svid
        self.credentials = Watch(joined.credentials)
        self.trust = Watch(joined.trust)
        self.membership: Membership = joined.membership
        self.store = joined.store
        self.schedule = Schedule.of(svid.lifetime.total_seconds())
        self.unfit = Watch("")
        """Why our identity is of no use to anybody at the moment; empty: it is good."""
        self.clock = SetClock(now)
        self.found_again = Watch(None)
        """Set when the control plane is back, and core may not know."""
        self.ended: Watch[MembershipEnded | None] = Watch(None)
        """Why it will be of no use again."""
        self._settings = settings
        self._tokens = tokens
        self._now = now
        self._lock = joined.lock
        self._hears = False
        """Whether the control plane tells us of each change of trust."""
        self._stored = (joined.credentials, joined.membership)
        self._unwritten = asyncio.Event()
        """Set while what we hold could not be written."""
        self._writing = asyncio.Lock()
        """Held from reading the credentials to replacing them, so that none is lost between."""
        self.control = DirectChannel(
            self.membership.dial,
            self.membership.control_id,
            self.credentials,
            drain_s=1.1 * self.schedule.max_connection_age + self.schedule.grace,
        )
        target, server = self.membership.control_targets[0], self.membership.control_id
        hints = Hints(credentials=self.credentials, target=target, server=server, now=now, clock=self.clock)
        self.calls = guarded(self.control, explain=hints.explain)

    async def keep(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.control.keep())
            tasks.create_task(self._keep_trust())
            tasks.create_task(self._keep_identity())
            tasks.create_task(self._keep_on_disk())
            tasks.create_task(self._keep_clock())

    def writes(self) -> bool:
        """Whether it is us, of the processes that share the state folder, who write there."""
        return self._lock is not None

    async def close(self) -> None:
        """End our connection to the control plane, and let the next process have the state folder."""
        await self.control.close()
        if self._lock is not None:
            self._lock.release()

    async def _keep_identity(self) -> None:
        await self._follow()
        while True:
            try:
                await keep_fresh(self.credentials, self._renewed, clock=self._now, on_event=_tell)
            except (SvidExpired, SvidNotYetValid) as error:
                self._lose(error)
                await self._recover(error)

    def _lose(self, error: CertsError) -> None:
        self._look_at_clock()
        why = ": ".join(part for part in (str(self.clock), str(error)) if part)
        self.unfit.set(why)
        _log.error("%s: all calls are refused from now on", why)

    async def _recover(self, lost: CertsError) -> None:
        """The way back for whose SVID is of no use: a clock that is set right, a renewal, a join token."""
        pause, due = FIRST_PAUSE_S, 0.0
        while not self._is_alive():
            if time.monotonic() >= due:
                await self._try_again(lost)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                due = time.monotonic() + pause
            else:
                await asyncio.sleep(min(LOOK_S / 2, pause))
        if self.unfit.value:
            self._adopt(self.credentials.value, self.membership)

    async def _try_again(self, lost: CertsError) -> None:
        """One step towards another SVID; ends the membership where there is none."""
        token = self._token()
        if token is not None:
            await self._enrol_again(token)
        elif self.clock.ahead and not await self._is_refused():
            return  # to the control plane our SVID may be as good as ever: it is our clock that is wrong
        elif not self._is_alive():
            name = self._settings.name
            self._end(f"{lost}, and no join token is left: start again with one (`hauberk invite {name}`)")
            await asyncio.Event().wait()

    async def _is_refused(self) -> bool:
        """Whether the control plane, whose own SVID our clock accepts, does not accept ours either."""
        try:
            self._adopt(await self._renewed(), self.membership)
        except CertsError as error:
            _log.warning("cannot renew: %s", error)
        except grpc.aio.AioRpcError as error:
            _log.warning("cannot renew at %s: %s", self.control.target, error.details())
            return is_refusal_of_svid(error)
        return False

    def _is_alive(self) -> bool:
        try:
            self.credentials.value.svid.check_dates(self._now())
        except CertsError:
            return False
        return True

    async def _keep_clock(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._look_at_clock()

    def _look_at_clock(self) -> None:
        if self.clock.look():
            tell_of_clock(_log, self.clock)

    async def _renewed(self) -> Credentials:
        try:
            credentials, trust = await renew(self.calls, now=self._now)
        except grpc.aio.AioRpcError as error:
            self._notice_revocation(error)
            raise
        async with self._writing:
            if self._hears:  # this answer's word on whom to trust may be older
                credentials = Credentials(credentials.svid, self.credentials.value.bundle)
            else:
                self._remember(trust)
            await self._save(credentials)
            return credentials

    async def _keep_on_disk(self) -> None:
        """Write what could not be written when it came: a disk that is full now may not be soon."""
        while True:
            await self._unwritten.wait()
            await asyncio.sleep(REWRITE_S)
            async with self._writing:
                with contextlib.suppress(StoreError):
                    await self._write(self.credentials.value)
                    self._unwritten.clear()
                    _log.info("our svid and trust are on disk again")

    async def _enrol_again(self, token: str) -> None:
        try:
            credentials, membership = await enrol_and_store(self._settings, self.store, token, self._now)
        except (grpc.aio.AioRpcError, CertsError, JoinFailed) as error:
            said = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            _log.error("cannot enrol again at %s: %s", self._settings.enrolment, said)
            if not (isinstance(error, grpc.aio.AioRpcError) and error.code() in _AGAIN):
                self._tokens.answered(token)
        else:
            self._tokens.answered(token)
            self._adopt(credentials, membership)

    def _token(self) -> str | None:
        try:
            return self._tokens.next()
        except MeshError as error:
            _log.error("%s", error)
            return None

    def _adopt(self, credentials: Credentials, membership: Membership) -> None:
        self.membership = membership
        self.credentials.set(credentials)
        self.trust.set(Trust(credentials.bundle, membership.revoked))
        if self.unfit.value and self.ended.value is None:
            _log.info("identity is good again: %s", credentials.svid.spiffe_id)
            self.unfit.set("")

    async def _follow(self) -> None:
        """Read what the holder of the lock writes, until the lock is ours."""
        while self._lock is None:
            await asyncio.sleep(min(FOLLOW_S, self.schedule.watcher_refresh))
            try:
                self._lock = await asyncio.to_thread(self.store.lock)
                await self._read()
            except CertsError as error:
                _log.error("cannot follow: %s", error)
            alive = self._is_alive()
            if alive and self.unfit.value and self.ended.value is None:
                self._adopt(self.credentials.value, self.membership)
            elif not alive and not self.unfit.value:
                self._lose(SvidError("our svid is out of its time, and the process that renews it does not"))

    async def _read(self) -> None:
        credentials = await asyncio.to_thread(self.store.load)
        membership = await asyncio.to_thread(Membership.load, self._settings.state_dir)
        if credentials is None or membership is None:
            return
        if self._hears:  # a neighbour's word on whom to trust may be older than the control plane's
            credentials = Credentials(credentials.svid, self.credentials.value.bundle)
            membership = replace(membership, revoked=self.membership.revoked)
        if _same(credentials, self.credentials.value):
            return
        if credentials.svid.remaining(self._now()) > timedelta(0):
            self._adopt(credentials, membership)

    async def _keep_trust(self) -> None:
        """Hear of each change of trust; the stream is opened again whenever it ends."""
        stub: Any = enrolment_pb2_grpc.IdentityStub(self.calls)
        failed = 0
        absence = Absence()
        while True:
            watching = stub.WatchTrust(enrolment_pb2.WatchTrustRequest())
            try:
                async for message in watching:
                    failed = 0
                    await self._take(trust_of(message))
                    self._hears = True
                    if absence.over(time.monotonic()):
                        self.found_again.set(None)
            except grpc.aio.AioRpcError as error:
                self._notice_revocation(error)
                absence.lost(error, time.monotonic())
                if failed.bit_count() == 1:  # 1, 2, 4, 8: often enough to see that it lasts
                    _log.warning("lost the control plane at %s: %s", self.control.target, error.details())
            except CertsError as error:
                _log.error("trust is left as it was: %s", error)
            finally:
                watching.cancel()
            self._hears = False
            failed += 1
            longest = min(HEAR_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failed, 10))
            await asyncio.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311 - spreads processes

    async def _take(self, trust: Trust) -> None:
        """Trust `trust` from now on: in every check, every handshake, and on disk."""
        async with self._writing:
            held = self.credentials.value
            if held.svid.spiffe_id.trust_domain not in trust.bundle.anchors:
                raise CertsError(f"the control plane sent trust without {held.svid.spiffe_id.trust_domain}")
            if held.bundle.fingerprint != trust.bundle.fingerprint:
                self.credentials.set(Credentials(held.svid, trust.bundle))
                _log.info("trust has changed: %d roots", sum(map(len, trust.bundle.anchors.values())))
            self._remember(trust)
            await self._save(self.credentials.value)

    def _remember(self, trust: Trust) -> None:
        if trust != self.trust.value:
            self.trust.set(trust)
        self.membership = replace(self.membership, revoked=trust.revoked)
        if str(self.credentials.value.svid.spiffe_id) in trust.revoked:
            self._end_revoked()

    async def _save(self, credentials: Credentials) -> None:
        """Have `credentials` and the membership on disk. What cannot be written holds all the same."""
        try:
            await self._write(credentials)
        except StoreError as error:
            _log.error("our svid and trust are not on disk, tried again until they are: %s", error)
            self._unwritten.set()

    async def _write(self, credentials: Credentials) -> None:
        """Write what has changed, if it is us who writes there. Raises StoreError."""
        if self._lock is None:
            return
        membership, stored = self.membership, self._stored
        if credentials != stored[0]:
            await asyncio.to_thread(self.store.write, credentials)
        if membership != stored[1]:
            await asyncio.to_thread(membership.save, self._settings.state_dir)
        self._stored = (credentials, membership)

    def _notice_revocation(self, error: grpc.aio.AioRpcError) -> None:
        if reason_of(error) == "REVOKED":
            self._end_revoked()

    def _end_revoked(self) -> None:
        self._end(f"{self.credentials.value.svid.spiffe_id} was revoked: ask an operator why")

    def _end(self, why: str) -> None:
        if self.ended.value is None:
            self.unfit.set(why)
            self.ended.set(MembershipEnded(why))
            _log.error("%s", why)


_AGAIN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


def _same(one: Credentials, other: Credentials) -> bool:
    return one.svid.chain_pem == other.svid.chain_pem and one.bundle.fingerprint == other.bundle.fingerprint


def _tell(event: Rotated | RenewalFailed) -> None:
    match event:
        case Rotated(svid=svid):
            _log.info("svid renewed, good until %s", svid.expires_at.isoformat())
        case RenewalFailed(error=error, retry_in=pause, left=left):
            said = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            _log.warning(
                "renewal failed, %.0f s are left, next try in %.1f s: %s",
                left.total_seconds(),
                pause.total_seconds(),
                said or type(error).__name__,
            )
