"""How a process becomes a member: what it has on disk, else a join token, else what its neighbour writes.

Processes of one workload on one machine share a state folder. Who holds its lock enrols and writes; the
others wait for what it writes, and read.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import grpc

from hauberk.certs.bundle import Bundle
from hauberk.certs.credentials import Credentials
from hauberk.certs.errors import CertsError, StoreError, SvidError
from hauberk.certs.files import Lock
from hauberk.certs.identity import SpiffeId
from hauberk.certs.store import CredentialStore
from hauberk.enrolment import enrol, is_impostor, pinned_roots, refusal
from hauberk.errors import JoinFailed
from hauberk.interceptors.peer import Trust
from hauberk.membership import Membership
from hauberk.settings import Settings
from hauberk.tokens import JoinTokens

_log = logging.getLogger(__name__)

Clock = Callable[[], datetime]

REACH_S = 15.0
"""How long enrolment is tried while nobody listens there: the control plane may just be starting."""
FOLLOW_S = 30.0
"""How long a follower waits for the first credentials."""
_RETRIED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What a member starts with. `lock` is None for a follower; who has it releases it."""

    credentials: Credentials
    membership: Membership
    store: CredentialStore
    lock: Lock | None

    @property
    def trust(self) -> Trust:
        return Trust(self.credentials.bundle, self.membership.revoked)


async def become_member(settings: Settings, tokens: JoinTokens, now: Clock) -> Joined:
    """Join by the settings. Raises JoinFailed or SettingsError, in one line."""
    store = CredentialStore(settings.state_dir)
    try:
        lock = await asyncio.to_thread(store.lock)
        if lock is None:
            return await _follow(settings, store, now)
        try:
            found = await asyncio.to_thread(_on_disk, settings, store, now())
            if isinstance(found, str) or (_is_of_another_mesh(settings, found) and tokens.next() is not None):
                found = await _enrol(settings, store, tokens, found, now)
            return Joined(credentials=found[0], membership=found[1], store=store, lock=lock)
        except BaseException:
            lock.release()
            raise
    except CertsError as error:
        raise JoinFailed(str(error)) from error


async def enrol_and_store(
    settings: Settings, store: CredentialStore, token: str, now: Clock
) -> tuple[Credentials, Membership]:
    """Enrol with `token` and have it on disk.

    Raises AioRpcError as the call ended, CertsError, or JoinFailed if the token was for somebody else.
    """
    roots = await asyncio.to_thread(pinned_roots, settings.roots, settings.trust_domain)
    admission = await enrol(settings.enrolment, token, roots=roots, now=now)
    named = admission.credentials.svid.spiffe_id
    if named.name != settings.name:
        raise JoinFailed(
            f"the join token is for {named.name}, and HAUBERK_NAME is {settings.name}; it is spent now, make "
            f"another with `hauberk invite {settings.name}`"
        )
    await asyncio.to_thread(store.write, admission.credentials)
    await asyncio.to_thread(admission.membership.save, settings.state_dir)
    _log.info("enrolled as %s", named)
    return admission.credentials, admission.membership


async def _enrol(
    settings: Settings,
    store: CredentialStore,
    tokens: JoinTokens,
    found: str | tuple[Credentials, Membership],
    now: Clock,
) -> tuple[Credentials, Membership]:
    token = tokens.next()
    if token is None:
        file = settings.join_token_file
        gone = f" (HAUBERK_JOIN_TOKEN_FILE: {file} is not there)" if file and not file.exists() else ""
        raise JoinFailed(
            f"cannot join as {settings.name}: {found}, and no join token was given{gone}; make one with "
            f"`hauberk invite {settings.name}` and name its file in HAUBERK_JOIN_TOKEN_FILE"
        )
    give_up_at = time.monotonic() + REACH_S
    while True:
        try:
            joined = await enrol_and_store(settings, store, token, now)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _RETRIED or is_impostor(error) or time.monotonic() > give_up_at:
                raise refusal(error, settings) from error
            await asyncio.sleep(0.5)
        else:
            tokens.answered(token)
            return joined


async def _follow(settings: Settings, store: CredentialStore, now: Clock) -> Joined:
    """Wait for what the holder of the lock writes."""
    give_up_at = time.monotonic() + FOLLOW_S
    while True:
        found = await asyncio.to_thread(_on_disk, settings, store, now())
        if not isinstance(found, str):
            _log.info("another process holds the lock of %s: following it", settings.state_dir)
            return Joined(credentials=found[0], membership=found[1], store=store, lock=None)
        if time.monotonic() > give_up_at:
            raise JoinFailed(
                f"another process holds the lock of {settings.state_dir}, but {found}: see its log, or end it"
            )
        await asyncio.sleep(0.1)


def _on_disk(
    settings: Settings, store: CredentialStore, now: datetime
) -> tuple[Credentials, Membership] | str:
    """What the state folder holds for us; or why that is of no use, in words."""
    try:
        credentials, membership = store.load(), Membership.load(settings.state_dir)
    except StoreError as error:
        return str(error)
    if credentials is None or membership is None:
        return f"nothing is in {settings.state_dir} yet"
    svid = credentials.svid
    expected = SpiffeId.of(settings.trust_domain or svid.spiffe_id.trust_domain, settings.name)
    if svid.spiffe_id != expected:
        raise JoinFailed(
            f"{settings.state_dir} (HAUBERK_STATE_DIR) belongs to {svid.spiffe_id}, not to {expected}: "
            "give each workload a folder of its own"
        )
    try:
        svid.check_dates(now)
    except SvidError as error:
        return str(error)
    return credentials, membership


def _is_of_another_mesh(settings: Settings, found: tuple[Credentials, Membership]) -> bool:
    """Whether none of the roots we were given is among those on disk.

    Roots roll, so this alone does not make them wrong; with a join token at hand it is better to ask again.
    """
    given = pinned_roots(settings.roots, settings.trust_domain)
    return not _anchors(given) & _anchors(found[0].bundle)


def _anchors(bundle: Bundle) -> set[object]:
    return {root for roots in bundle.anchors.values() for root in roots}
