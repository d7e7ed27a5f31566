"""What the control plane opens before it serves: its folder, the CA, the store, the first operator's token.

Nothing is made silently that an operator could have lost: no CA, and no store where there has been one.
"""

import logging
import os
import select
import sqlite3
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.exc import DBAPIError

from hauberk.certs import files, join
from hauberk.certs.authority import Authority
from hauberk.certs.errors import CertsError, TokenRefused, TokenUnknown
from hauberk.certs.identity import SpiffeId
from hauberk.certs.join import TokenRecord
from hauberk.certs.roots import ROOTS
from hauberk.interceptors.errors import Refused
from hauberk.services.control import addresses
from hauberk.services.control.settings import ConfigError, ControlSettings
from hauberk.services.control.store import Store, StoreMismatch
from hauberk.services.database import DatabaseError

OPERATOR = "operators/local"
OPERATOR_TTL = timedelta(minutes=10)
TOKEN_WAIT_S = 10.0
_DAMAGED = "the database file is damaged or no database at all: restore it from a backup"
HAD_A_STORE = "store"
"""A file in the CA's folder: this mesh has had a store, so an empty one has lost its memory."""


_log = logging.getLogger(__name__)


class StartRefused(Exception):
    """The control plane cannot start; `str()` is one line that says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The CA and the store, known to belong together."""

    authority: Authority
    store: Store


def open_state(settings: ControlSettings, stack: ExitStack, now: datetime) -> Opened:
    """Open what `settings` name; `stack` closes it again. Blocks.

    Raises ConfigError or StartRefused.
    """
    try:
        _lock(settings, stack)
        authority = _authority(settings)
        _check_ports(settings)
        store = Store.open(settings.database)
        stack.callback(store.close)
        if (wrong := store.damage()) is not None:
            raise StartRefused(f"{_DAMAGED}: {settings.database}: {wrong}")
        _claim(settings, authority, store)
        if settings.operator_token_fd is not None:
            _admit_operator(_read_token(settings.operator_token_fd), authority, store, now)
    except (DatabaseError, DBAPIError) as error:
        raise StartRefused(database_trouble(error) or str(error).partition("\n")[0]) from error
    except (CertsError, StoreMismatch, Refused) as error:
        raise StartRefused(str(error)) from error
    return Opened(authority=authority, store=store)


def database_trouble(error: BaseException) -> str | None:
    """What ails the database file below `error`, as a line with the remedy; None if it is something else."""
    origin = error if isinstance(error, DBAPIError) else error.__cause__
    if not isinstance(origin, DBAPIError) or not isinstance(origin.orig, sqlite3.Error):
        return None
    # The low byte is the kind of error: https://www.sqlite.org/rescode.html
    match getattr(origin.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return "the disk is full, or our part of it: the database cannot be written; make room"
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return _DAMAGED
        case sqlite3.SQLITE_IOERR:
            return "the disk refuses to read or write the database: look whether it is full, or failing"
        case _:
            return None


def _lock(settings: ControlSettings, stack: ExitStack) -> None:
    files.make_folder(settings.state / "control")
    lock = files.lock(settings.state / "control" / "lock")
    if lock is None:
        raise StartRefused(f"another control plane is running in {settings.state}: stop that one first")
    stack.enter_context(lock)
    addresses.withdraw(settings.state / "control")  # of a process that was killed


def _check_ports(settings: ControlSettings) -> None:
    """A port that mesh.toml names and somebody has is refused in mesh.toml's words."""
    for key, listen in (("listen", settings.listen), ("enrolment_listen", settings.enrolment_listen)):
        if listen.port and (why := addresses.obstacle(listen)):
            raise StartRefused(
                f'[control] {key} = "{listen}" in mesh.toml: {why}; write another, '
                "or port 0 for any that is free"
            )


def _authority(settings: ControlSettings) -> Authority:
    folder = settings.state / "ca"
    authority = Authority.load(folder, settings.ca_passphrase())
    if authority.trust_domain != settings.trust_domain:
        raise ConfigError(
            f"mesh.toml says trust_domain {settings.trust_domain!r}, "
            f"the CA in {folder} is of {authority.trust_domain!r}: change one"
        )
    if authority.mend():
        _log.warning("%s was not what is trusted, and is written again", folder / ROOTS)
    return authority


def _claim(settings: ControlSettings, authority: Authority, store: Store) -> None:
    """Noted in the CA's folder only once the store knows it too: a crash between leaves a new mesh new."""
    had = settings.state / "ca" / HAD_A_STORE
    store.claim(authority.mesh_id, authority.trust_domain, new=not had.exists())
    if not had.exists():
        files.create(had, f"{authority.mesh_id}\n".encode())


def _read_token(descriptor: int) -> str:
    """One line from an inherited pipe, which is then closed."""
    text = b""
    try:
        while b"\n" not in text and len(text) < 256 and select.select([descriptor], [], [], TOKEN_WAIT_S)[0]:
            read = os.read(descriptor, 256)
            if not read:
                break
            text += read
        os.close(descriptor)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"HAUBERK_CONTROL_OPERATOR_TOKEN_FD: {descriptor} cannot be read: {error}"
        ) from error
    return text.decode("ascii", "replace").strip()


def _admit_operator(token: str, authority: Authority, store: Store, now: datetime) -> None:
    """Let the token of whoever started us enrol as `operators/local`, once."""
    try:
        digest = join.digest(token)
    except TokenRefused as error:
        raise ConfigError(f"HAUBERK_CONTROL_OPERATOR_TOKEN_FD: {error}") from error
    try:
        store.invited(digest, now)
    except TokenUnknown:
        record = TokenRecord(
            digest=digest,
            spiffe_id=SpiffeId.of(authority.trust_domain, OPERATOR),
            serves=frozenset(),
            expires_at=now + OPERATOR_TTL,
        )
        store.invite(record, keep_bindings=True, now=now)
    except TokenRefused:
        return  # of an earlier start of ours: it is not made new
