"""An extracted backup on its way: what it must agree with, what is in the way, what goes where."""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes

from hauberk.certs import files, pem
from hauberk.certs.authority import Authority
from hauberk.certs.clock import utc_now
from hauberk.certs.errors import CertsError
from hauberk.cli import authority, postgresql
from hauberk.cli.archive import Manifest
from hauberk.cli.control_store import ControlStore, carry_revocations
from hauberk.cli.databases import Database, ServerDatabase, SqliteFile, databases_of
from hauberk.cli.errors import CommandFailed
from hauberk.cli.exchange import Exchange
from hauberk.cli.mesh_file import MeshFile, parse
from hauberk.cli.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What the mesh that is replaced knew, and the backup does not: names revoked, roots trusted."""

    revoked: tuple[str, ...]
    still_revoked: tuple[str, ...]
    """Those of them that the restored store refuses all the same."""
    roots: tuple[str, ...]
    """SHA-256 of the certificates, hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoring:
    """A backup whose parts lie whole in `incoming`, below the state folder, and belong together."""

    state: State
    mesh: MeshFile
    manifest: Manifest
    incoming: Path
    ca: Authority
    sqlite: tuple[SqliteFile, ...]
    """Those that go where mesh.toml says; any other stays what it was in .hauberk/databases/."""
    servers: tuple[ServerDatabase, ...]

    @classmethod
    def of(
        cls, state: State, file: Path, manifest: Manifest, incoming: Path, passphrase: bytes | None
    ) -> "Restoring":
        """Raises CommandFailed if the parts do not belong together, or not to the mesh.toml that is here."""
        mesh = _mesh(state, file, incoming)
        if mesh.trust_domain != manifest.trust_domain:
            raise CommandFailed(
                f"{file} is of mesh {manifest.trust_domain}, {state.mesh_file} of mesh {mesh.trust_domain}",
                "restore it in a folder of its own, or name its mesh file: --mesh FILE",
            )
        ca = _authority(state, mesh, file, manifest, incoming, passphrase)
        store = incoming / "control" / "control.db"
        if store.exists() and (found := ControlStore.read(store).mesh_id) not in ("", ca.mesh_id):
            raise CommandFailed(f"{file}: its store is of mesh {found}, its CA of mesh {ca.mesh_id}")
        known = {database.part: database for database in databases_of(state, mesh)}
        places = [_place(known, part.name) for part in manifest.parts]
        return cls(
            state=state,
            mesh=mesh,
            manifest=manifest,
            incoming=incoming,
            ca=ca,
            sqlite=tuple(place for place in places if isinstance(place, SqliteFile)),
            servers=tuple(place for place in places if isinstance(place, ServerDatabase)),
        )

    def check_room(self, force: bool) -> None:
        """Raises CommandFailed if something is in the way that may not be moved aside."""
        for server in self.servers:
            postgresql.check_empty(server)
        if force or self.state.restoring.exists():
            return
        ours = [self.state.ca / "authority.json", self.state.control_database]
        for path in (*ours, *self.state.databases.glob("*.db"), *(file.path for file in self.sqlite)):
            if path.exists():
                raise CommandFailed(
                    f"there is a mesh here already: {path}",
                    f"to move it aside, to {self.state.folder.name}/replaced-TIME/: --force",
                )

    def forgotten(self) -> Forgotten:
        """Held against what is here now, as far as that can be read."""
        roots: set[str] = set()
        with suppress(OSError, ValueError):
            trusted = pem.parse(self.state.roots.read_bytes())
            roots = {root.fingerprint(hashes.SHA256()).hex() for root in trusted}
        prefix = f"spiffe://{self.manifest.trust_domain}/"
        revoked = tuple(sorted(name.removeprefix(prefix) for name in self._revoked_since()))
        return Forgotten(
            revoked=revoked,
            still_revoked=revoked if self._store.exists() else (),
            roots=tuple(sorted(roots - {root.fingerprint for root in self.ca.roots(utc_now())})),
        )

    def put(self) -> Path | None:
        """Put everything in its place; where that which was there is now, if something was.

        Raises OSError or CommandFailed, and then no file has changed; which databases of a server have, the
        error says.
        """
        outside: list[tuple[Path, Path]] = []
        filled: list[str] = []
        try:
            self._arrange(outside)
            for server in self.servers:
                postgresql.fill(server, self.incoming / server.part)
                filled.append(str(server))
            files.remove_folder(self.incoming / "postgresql")
            exchange = Exchange(self.state, now=utc_now())
            exchange.run(self.incoming, outside)
        except (OSError, CommandFailed, CertsError) as error:
            for fresh, _ in outside:
                fresh.unlink(missing_ok=True)
            if filled:
                raise CommandFailed(
                    f"{error}", f"filled already, empty it before you try again: {', '.join(filled)}"
                ) from None
            raise
        return exchange.replaced

    @property
    def _store(self) -> Path:
        """The control plane's, if the backup has one."""
        return self.incoming / "control" / "control.db"

    def _revoked_since(self) -> frozenset[str]:
        """Whom this mesh refuses here now, as far as that can be read, and the backup does not."""
        with suppress(CommandFailed):
            if self.state.control_database.exists():
                here = ControlStore.read(self.state.control_database)
                if here.mesh_id == self.ca.mesh_id:
                    return here.revoked - set(self.manifest.revoked)
        return frozenset()

    def _arrange(self, outside: list[tuple[Path, Path]]) -> None:
        """Make of `incoming` what .hauberk/ is to be; add (new file, place) of what goes elsewhere."""
        mesh_file = self.incoming / "mesh.toml"
        if not self.state.mesh_file.exists():
            outside.append((_beside(self.state.mesh_file, mesh_file), self.state.mesh_file))
        mesh_file.unlink()
        if self._store.exists() and self._revoked_since():
            carry_revocations(self.state.control_database, self._store)
        mark = self.state.had_a_store.name
        had = (self.incoming / "ca" / mark).exists()
        files.remove_folder(self.incoming / "ca")
        self.ca.copy_to(self.incoming / "ca", authority.passphrase(self.state, self.mesh))
        if had:
            files.create(self.incoming / "ca" / mark, f"{self.ca.mesh_id}\n".encode())
        for file in self.sqlite:
            if file.path != self.state.folder / file.part:
                outside.append((_beside(file.path, self.incoming / file.part), file.path))
                (self.incoming / file.part).unlink()


def _mesh(state: State, file: Path, incoming: Path) -> MeshFile:
    """The mesh file that is here, or else the backup's. Raises CommandFailed."""
    if state.mesh_file.exists():
        return state.mesh()
    try:
        return parse((incoming / "mesh.toml").read_text("utf-8"), f"{file}: mesh.toml")
    except (FileNotFoundError, UnicodeDecodeError):
        raise CommandFailed(
            f"{file}: there is no mesh.toml in it", "write one beside where it is to be"
        ) from None


def _authority(
    state: State, mesh: MeshFile, file: Path, manifest: Manifest, incoming: Path, passphrase: bytes | None
) -> Authority:
    """The CA in the backup, opened: nobody is left with one that cannot be."""
    key = None
    if manifest.keys != "plain":
        key = authority.passphrase(state, mesh) if passphrase is None else passphrase
        if key is None:
            raise CommandFailed(
                f"{file}: the CA's keys in it are encrypted",
                "name the passphrase's file: --passphrase-file FILE",
            )
    try:
        ca = Authority.load(incoming / "ca", key)
    except CertsError as error:
        raise CommandFailed(
            f"{file}: its CA cannot be opened: {error}",
            "with the passphrase that it was made with: --passphrase-file FILE"
            if key
            else "take another backup",
        ) from None
    if (ca.trust_domain, ca.mesh_id) != (manifest.trust_domain, manifest.mesh_id):
        raise CommandFailed(f"{file}: its CA is of mesh {ca.mesh_id}, it says {manifest.mesh_id}")
    return ca


def _place(known: Mapping[str, Database], part: str) -> Database | None:
    """Which database of mesh.toml a part is, if it is one. Raises CommandFailed if mesh.toml disagrees."""
    kind, _, name = part.partition("/")
    here, other = known.get(part), known.get(f"postgresql/{Path(name).stem}.dump")
    if kind == "postgresql" and not (isinstance(here, ServerDatabase) and here.is_postgresql):
        raise CommandFailed(
            f"the backup has {part}, and mesh.toml names no PostgreSQL database for it",
            "name an empty one there, as the backup's own mesh.toml did",
        )
    if kind in ("control", "databases") and here is None and other is not None:
        raise CommandFailed(
            f"the backup has {part}, a file of SQLite, and mesh.toml names {other}",
            "restore it with a mesh.toml that keeps it in SQLite",
        )
    return here


def _beside(place: Path, part: Path) -> Path:
    """A private copy of `part` in the folder of `place`, from where a rename puts it in its place."""
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = place.with_name(f".{place.name}.restoring")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, files.FILE_MODE)
    with os.fdopen(descriptor, "wb") as copy, part.open("rb") as file:
        shutil.copyfileobj(file, copy)
        copy.flush()
        os.fsync(descriptor)
    return fresh
