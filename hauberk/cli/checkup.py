"""What `hauberk doctor` looks at on this machine: versions, clock, files, authority, certificates, ports.

Each check is a function that yields findings: what was looked at, and if it is wrong, what to do.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from hauberk.certs.authority import Authority
from hauberk.certs.credentials import Credentials
from hauberk.certs.errors import CertsError, ChainError, StoreError
from hauberk.certs.store import CredentialStore
from hauberk.cli import authority
from hauberk.cli.errors import CommandFailed
from hauberk.cli.mesh_file import MeshFile
from hauberk.cli.state import Addresses, State

ROOT_WARNING = timedelta(days=30)
CLOCK_STEP_S = 0.05
"""More than this apart within a moment, and somebody is setting the wall clock."""
FUTURE_S = 60.0
"""Files newer than now by more than this were written under another clock."""
MOST_FILES = 20
LEAST_FREE = 4 * 2**20
"""Bytes: SQLite's write-ahead log grows to 4 MiB, and to more where readers never pause."""
REACH_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. `remedy` is there if it is wrong, and says what to do."""

    about: str
    text: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        return not self.remedy


def versions() -> Iterator[Finding]:
    """What we run on, and whether the libraries are those this build asks for."""
    yield Finding(about="versions", text=f"python {platform.python_version()}, {ssl.OPENSSL_VERSION}")
    for line in importlib.metadata.requires("hauberk") or ():
        found = re.match(r"([\w.-]+)\s*>=\s*([0-9.]+)", line, re.ASCII)
        if not found or "extra ==" in line:
            continue
        name, least = found[1], found[2]
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            have = ""
        text = f"{name} {have or 'is missing'}"
        wrong = not have or _numbers(have) < _numbers(least)
        yield Finding(about="versions", text=text, remedy=f"pip install '{name}>={least}'" if wrong else "")


def clock(state: State, *, now: datetime) -> Iterator[Finding]:
    """Whether the wall clock runs evenly, and stands where our own files were written."""
    wall, steady = time.time(), time.monotonic()
    time.sleep(0.2)
    step = (time.time() - wall) - (time.monotonic() - steady)
    remedy = "let one NTP daemon set the clock, slowly" if abs(step) > CLOCK_STEP_S else ""
    yield Finding(
        about="clock", text=f"wall and steady clock are {abs(step) * 1000:.0f} ms apart", remedy=remedy
    )
    newest = max((path.lstat().st_mtime for path in _walk(state.folder)), default=0.0)
    ahead = newest - now.timestamp()
    if ahead > FUTURE_S:
        yield Finding(
            about="clock",
            text=f"files in {state.folder} are {ahead:.0f} s newer than now",
            remedy="the clock was set back: set it right, or wait; certificates are not valid yet",
        )


def room(state: State) -> Iterator[Finding]:
    """Whether each disk that the state folder lies on has room for what is written there."""
    seen: set[int] = set()
    for folder in (state.folder, *_folders(state)):
        with contextlib.suppress(FileNotFoundError):
            device, found = folder.stat().st_dev, os.statvfs(folder)
            free = found.f_bavail * found.f_frsize
            full = free < LEAST_FREE or (found.f_files and not found.f_favail)
            if full and device not in seen:
                text = f"the disk of {folder} is full: {free / 2**20:.1f} MiB and {found.f_favail} files left"
                yield Finding(
                    about="disk", text=text, remedy="make room; what failed meanwhile goes on by itself"
                )
            seen.add(device)
    if seen:
        yield Finding(about="disk", text=f"{len(seen)} looked at")


def files(state: State) -> Iterator[Finding]:
    """Whether anybody but us can read or change what lies in the state folder."""
    if not state.folder.is_dir():
        yield Finding(about="files", text=f"no state folder: {state.folder}", remedy="make it: hauberk up")
        return
    loose = 0
    for path in (state.folder, *_walk(state.folder)):
        with contextlib.suppress(FileNotFoundError):  # a living mesh removes files meanwhile
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode):
                continue
            folder = stat.S_ISDIR(found.st_mode)
            remedy = ""
            if found.st_uid != os.geteuid():
                remedy = f"chown {os.geteuid()} {path}"
            elif stat.S_IMODE(found.st_mode) & 0o077:
                remedy = f"chmod {'700' if folder else '600'} {path}"
            if remedy:
                loose += 1
                if loose <= MOST_FILES:
                    mode = stat.S_IMODE(found.st_mode)
                    yield Finding(about="files", text=f"others can use {path} ({mode:04o})", remedy=remedy)
    if not loose:
        yield Finding(about="files", text=f"{state.folder} is ours alone")


def authority_of(state: State, mesh: MeshFile, *, now: datetime) -> Iterator[Finding]:
    """Whether the authority opens, how its keys are kept, and how long its roots last."""
    if not authority.exists(state):
        yield Finding(about="ca", text=f"no authority in {state.ca}", remedy="make it: hauberk ca init")
        return
    try:
        opened = authority.load(state, mesh)
    except CommandFailed as error:
        yield Finding(about="ca", text=error.message, remedy=error.next_step or "restore it from a backup")
        return
    kept = (
        "encrypted"
        if mesh.control.ca_passphrase_file
        else "0600, not encrypted (ca_passphrase_file is not set)"
    )
    yield Finding(about="ca", text=f"authority of {opened.trust_domain}, keys {kept}")
    for root in opened.roots(now):
        left = root.not_after - now
        remedy = "" if left > ROOT_WARNING else "roll it: hauberk ca roll"
        yield Finding(about="ca", text=f"{root.state} root until {root.not_after:%Y-%m-%d}", remedy=remedy)


def certificates(state: State, mesh: MeshFile, *, now: datetime) -> Iterator[Finding]:
    """Whether each process's key and chain fit, lead to our roots, and are in their time."""
    try:
        opened = authority.load(state, mesh) if authority.exists(state) else None
    except CommandFailed:
        opened = None  # said already, by authority_of
    for folder in _stores(state):
        name = str(folder.relative_to(state.folder))
        try:
            credentials = CredentialStore(folder).load()
        except StoreError as error:
            yield Finding(
                about="certificates", text=f"{name}: {error}", remedy=f"remove {folder}; hauberk up"
            )
            continue
        if credentials is not None:
            yield _certificate(name, folder, credentials, opened, now)


def ports(mesh: MeshFile, addresses: Addresses | None) -> Iterator[Finding]:
    """Whether the control plane's ports answer, or, where it does not run, those mesh.toml fixes are free."""
    if addresses is not None:
        for what, address in (("mesh", addresses.mesh), ("enrolment", addresses.enrolment)):
            reached = _answers(address)
            remedy = "" if reached else "look at the log of `hauberk up`; is a firewall between?"
            text = f"{what} port {address} {'answers' if reached else 'does not answer'}"
            yield Finding(about="ports", text=text, remedy=remedy)
        return
    wanted = {
        "control listen": mesh.control.listen,
        "control enrolment_listen": mesh.control.enrolment_listen,
    }
    wanted |= {f"{name} listen": workload.listen for name, workload in mesh.workloads.items()}
    for what, address in wanted.items():
        if not address.endswith(":0"):
            taken = _answers(address)
            remedy = "stop whoever has it (ss -ltnp), or write another port in mesh.toml" if taken else ""
            yield Finding(
                about="ports", text=f"{what} {address} {'is taken' if taken else 'is free'}", remedy=remedy
            )


def _certificate(
    name: str, folder: Path, credentials: Credentials, opened: Authority | None, now: datetime
) -> Finding:
    svid = credentials.svid
    left = svid.remaining(now)
    if now < svid.leaf.not_valid_before_utc:
        remedy = "set this machine's clock: it is behind"
        return Finding(about="certificates", text=f"{name}: {svid.spiffe_id} is not valid yet", remedy=remedy)
    if left <= timedelta(0):
        if _is_held(folder):
            text = f"{name}: {svid.spiffe_id} expired {-left} ago, and the process that should renew it runs"
            return Finding(about="certificates", text=text, remedy="read its log, restart it")
        return Finding(about="certificates", text=f"{name}: expired; the next start or use enrols anew")
    try:
        (opened.bundle if opened else credentials.bundle).verify(svid.chain, now=now)
    except ChainError as error:
        text = f"{name}: {svid.spiffe_id} does not lead to our roots: {error}"
        return Finding(
            about="certificates", text=text, remedy=f"remove {folder} and start it again: hauberk up"
        )
    return Finding(about="certificates", text=f"{name}: {svid.spiffe_id} for {_spelled(left)} more")


def _is_held(folder: Path) -> bool:
    """Whether a living process holds the folder's lock."""
    try:
        lock = CredentialStore(folder).lock()
    except CertsError:
        return False
    if lock is None:
        return True
    lock.release()
    return False


def _stores(state: State) -> list[Path]:
    places = (state.folder / "operators", state.folder / "workloads", state.folder / "identities")
    return sorted(
        folder for place in places if place.is_dir() for folder in place.iterdir() if folder.is_dir()
    )


def _folders(state: State) -> Iterator[Path]:
    """The folders right below the state folder, any of which may be another disk."""
    with contextlib.suppress(OSError):
        yield from sorted(path for path in state.folder.iterdir() if path.is_dir())


def _walk(folder: Path) -> Iterator[Path]:
    for above, folders, names in os.walk(folder):
        for name in (*folders, *names):
            yield Path(above) / name


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S):
            return True
    except OSError:
        return False


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _spelled(span: timedelta) -> str:
    return str(timedelta(seconds=round(span.total_seconds())))
