"""The authority's folder: its roots, the state each is in, and how that changes without ever being half
changed.

authority.json is the truth and is replaced whole. What a root needs lies in a folder of its own that is
complete before authority.json names it, and is removed only after authority.json has forgotten it.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hauberk.certs import files, keys, pem
from hauberk.certs.errors import AuthorityError, IdentityError
from hauberk.certs.identity import parse_dns_name, parse_trust_domain

LEDGER = "authority.json"
ROOTS = "roots.pem"
"""Every trusted root, for those who pin them before they know anybody."""
FORMAT = 1


class RootState(StrEnum):
    """Where a root is in its roll."""

    PREPARED = "prepared"
    ACTIVE = "active"
    RETIRING = "retiring"


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A root as people see it."""

    state: RootState
    since: datetime
    """When it came into this state."""
    fingerprint: str
    """SHA-256 of the certificate, hex."""
    not_before: datetime
    not_after: datetime
    expired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A root, the intermediate under it, and the intermediate's key."""

    state: RootState
    since: datetime
    root: x509.Certificate = field(repr=False)
    intermediate: x509.Certificate = field(repr=False)
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    folder: str = ""
    """Its folder's name, once it has one."""

    def describe(self, now: datetime) -> Root:
        return Root(
            state=self.state,
            since=self.since,
            fingerprint=self.root.fingerprint(hashes.SHA256()).hex(),
            not_before=self.root.not_valid_before_utc,
            not_after=self.root.not_valid_after_utc,
            expired=now > self.root.not_valid_after_utc,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What authority.json says, with the certificates and keys it names."""

    trust_domain: str
    mesh_id: str
    dns_names: tuple[str, ...]
    signers: tuple[Signer, ...]

    def having(self, state: RootState) -> list[Signer]:
        return [signer for signer in self.signers if signer.state is state]

    def text(self) -> bytes:
        """authority.json's content."""
        roots = [
            {"folder": signer.folder, "state": signer.state, "since": signer.since.isoformat()}
            for signer in self.signers
        ]
        content = {
            "format": FORMAT,
            "trust_domain": self.trust_domain,
            "mesh_id": self.mesh_id,
            "dns_names": self.dns_names,
            "roots": roots,
        }
        return json.dumps(content, indent=2).encode() + b"\n"


class RootFolder:
    """The files of one authority."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(
        self,
        trust_domain: str,
        mesh_id: str,
        dns_names: tuple[str, ...],
        signer: Signer,
        passphrase: bytes | None,
    ) -> None:
        """Start the folder. Raises AuthorityError if an authority lives there."""
        files.make_folder(self._folder)
        with self._lock():
            if (self._folder / LEDGER).exists():
                raise AuthorityError(f"there is an authority already: {self._folder}")
            empty = Ledger(trust_domain=trust_domain, mesh_id=mesh_id, dns_names=dns_names, signers=())
            self.add(empty, signer, passphrase)

    def load(self, passphrase: bytes | None) -> Ledger:
        """What the folder holds, checked: modes, states, signatures, and that keys and certificates fit."""
        if not (self._folder / LEDGER).exists():
            raise AuthorityError(f"no authority here: {self._folder}: make one with `hauberk ca init`")
        files.check_folder(self._folder)
        text = files.read(self._folder / LEDGER)
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise AuthorityError(
                    f"authority is of format {content['format']!r:.20}, this build reads {FORMAT}"
                )
            ledger = Ledger(
                trust_domain=parse_trust_domain(content["trust_domain"]),
                mesh_id=str(content["mesh_id"]),
                dns_names=tuple(map(parse_dns_name, content["dns_names"])),
                signers=tuple(self._signer(root, passphrase) for root in content["roots"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, IdentityError) as error:
            raise AuthorityError(f"unreadable: {self._folder / LEDGER}: restore it from a backup") from error
        _check_states(ledger)
        return ledger

    @contextmanager
    def rolling(self, known: Ledger, passphrase: bytes | None) -> Iterator[Ledger]:
        """Hold the folder for one step of a roll. Raises AuthorityError if it is no longer as `known`."""
        with self._lock():
            ledger = self.load(passphrase)
            if ledger.text() != known.text():
                raise AuthorityError("another process has rolled this authority's roots: load it again")
            yield ledger

    @contextmanager
    def held(self, wait_s: float) -> Iterator[None]:
        """Keep every roll out while the block runs. Raises AuthorityError if one goes on for `wait_s`."""
        with self._lock(wait_s):
            yield

    def fill(self, ledger: Ledger, passphrase: bytes | None) -> None:
        """Make this the folder of an authority there is already. Raises AuthorityError if it is one's."""
        files.make_folder(self._folder)
        with self._lock():
            if (self._folder / LEDGER).exists():
                raise AuthorityError(f"there is an authority already: {self._folder}")
            for signer in ledger.signers:
                self._keep(signer, passphrase)
            self._write(ledger)

    def mend(self, ledger: Ledger, passphrase: bytes | None) -> bool:
        """Write roots.pem again if it is gone, or not what the ledger says; whether that was so."""
        wanted = pem.write([signer.root for signer in ledger.signers])
        with suppress(OSError):
            if (self._folder / ROOTS).read_bytes() == wanted:
                return False
        with self.rolling(ledger, passphrase):
            files.replace(self._folder / ROOTS, wanted)
        return True

    def add(self, ledger: Ledger, signer: Signer, passphrase: bytes | None) -> Ledger:
        """The ledger with one more signer, on disk."""
        named = replace(signer, folder=self._free_name())
        self._keep(named, passphrase)
        return self._write(replace(ledger, signers=(*ledger.signers, named)))

    def move(self, ledger: Ledger, moves: Mapping[RootState, RootState], now: datetime) -> Ledger:
        """The ledger with each signer in the state its own leads to, on disk."""
        signers = tuple(
            replace(signer, state=moves[signer.state], since=now) if signer.state in moves else signer
            for signer in ledger.signers
        )
        return self._write(replace(ledger, signers=signers))

    def drop(self, ledger: Ledger, state: RootState) -> Ledger:
        """The ledger without the signers in `state`, on disk, and their keys gone."""
        smaller = self._write(
            replace(ledger, signers=tuple(signer for signer in ledger.signers if signer.state is not state))
        )
        for signer in ledger.having(state):
            files.remove_folder(self._folder / signer.folder)
        return smaller

    def _write(self, ledger: Ledger) -> Ledger:
        # First, so that whoever pins the file never lacks a root that signs.
        files.replace(self._folder / ROOTS, pem.write([signer.root for signer in ledger.signers]))
        files.replace(self._folder / LEDGER, ledger.text())
        return ledger

    def _keep(self, signer: Signer, passphrase: bytes | None) -> None:
        """What a signer needs, in its folder, which is there whole or not at all."""
        fresh = self._folder / f".{signer.folder}.new"
        files.remove_folder(fresh)
        files.make_folder(fresh)
        files.create(fresh / "root.pem", pem.write([signer.root]))
        files.create(fresh / "intermediate.pem", pem.write([signer.intermediate]))
        files.create(fresh / "intermediate.key.pem", keys.to_pem(signer.key, passphrase))
        files.rename_folder(fresh, self._folder / signer.folder)

    def _lock(self, wait_s: float = 0.0) -> files.Lock:
        ends = time.monotonic() + wait_s
        while (lock := files.lock(self._folder / "lock")) is None:
            if time.monotonic() >= ends:
                raise AuthorityError(f"another process is changing this authority: {self._folder}")
            time.sleep(0.005)
        return lock

    def _free_name(self) -> str:
        taken = [int(path.name[1:]) for path in self._folder.glob("r[0-9][0-9][0-9][0-9][0-9][0-9]")]
        return f"r{max(taken, default=0) + 1:06d}"

    def _signer(self, content: Mapping[str, str], passphrase: bytes | None) -> Signer:
        folder = self._folder / Path(content["folder"]).name
        files.check_folder(folder)
        signer = Signer(
            state=RootState(content["state"]),
            since=datetime.fromisoformat(content["since"]),
            root=_certificate(folder / "root.pem"),
            intermediate=_certificate(folder / "intermediate.pem"),
            key=keys.from_pem(files.read(folder / "intermediate.key.pem"), passphrase),
            folder=folder.name,
        )
        try:
            signer.intermediate.verify_directly_issued_by(signer.root)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise AuthorityError(f"intermediate is not signed by its root: {folder}") from error
        if signer.intermediate.public_key() != signer.key.public_key():
            raise AuthorityError(f"key is not the intermediate's: {folder}")
        return signer


def _certificate(path: Path) -> x509.Certificate:
    try:
        (certificate,) = pem.parse(files.read(path))
    except ValueError as error:
        raise AuthorityError(f"unreadable: {path}: restore it from a backup") from error
    return certificate


def _check_states(ledger: Ledger) -> None:
    """One active root, and at most one beside it: prepared or retiring."""
    if len(ledger.having(RootState.ACTIVE)) != 1 or len(ledger.signers) > 2:
        states = ", ".join(signer.state for signer in ledger.signers) or "none"
        raise AuthorityError(f"authority must have one active root and at most one other, it has: {states}")
