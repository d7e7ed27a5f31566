"""`hauberk backup`: the CA and every database of a mesh as they are at one instant, in one file.

Works while the mesh runs and while it does not. Not in it: certificates and keys of workloads (they get new
ones at the next start), join tokens, addresses, logs.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from hauberk import __version__
from hauberk.certs.authority import Authority
from hauberk.certs.clock import utc_now
from hauberk.certs.files import sync_folder
from hauberk.cli import archive, authority
from hauberk.cli.archive import Manifest
from hauberk.cli.control_store import ControlStore, forget_tokens
from hauberk.cli.cut import cut
from hauberk.cli.databases import CONTROL, Database, ServerDatabase, databases_of, without
from hauberk.cli.ending import cleaned_up
from hauberk.cli.errors import CommandFailed
from hauberk.cli.mesh_file import MeshFile
from hauberk.cli.options import json_option, mesh_option, passphrase_option, print_json
from hauberk.cli.state import State


@click.command("backup", epilog="Example:  hauberk backup monday.hauberk --passphrase-file FILE")
@click.argument("file", type=Path)
@passphrase_option("Encrypt the CA's keys in the backup with what this file holds.")
@click.option(
    "--plain-keys", is_flag=True, help="Put keys that lie unencrypted in .hauberk/ca in as they are."
)
@click.option(
    "--without",
    "left_out",
    multiple=True,
    metavar="NAME",
    help="Leave out the database of this workload, or of control; may be given again.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@mesh_option
@json_option
def command(
    file: Path,
    passphrase: bytes | None,
    plain_keys: bool,
    left_out: tuple[str, ...],
    force: bool,
    state: State,
    as_json: bool,
) -> None:
    """Write the mesh's CA, its control plane's store and its workloads' databases to FILE.

    All of them are of one instant, whether the mesh runs or not. FILE can become the whole mesh: keep it as
    you keep its CA. A passphrase encrypts the CA's keys in it, not the databases and not mesh.toml. What a
    workload keeps outside its DATABASE_URL is not in it.
    """
    mesh = state.mesh()
    state.check_whole()
    _check_target(state, file, force)
    if not authority.exists(state):
        raise CommandFailed(
            f"there is no mesh to save: no CA in {state.folder}", "name its mesh file: --mesh FILE"
        )
    own = authority.passphrase(state, mesh)
    if passphrase is None and own is None and not plain_keys:
        raise CommandFailed(
            "the CA's keys are not encrypted, and a backup should not hold them so",
            "encrypt them in it: --passphrase-file FILE; or, if FILE is safe as it is: --plain-keys",
        )
    databases = _databases(state, mesh, left_out)
    try:
        with cleaned_up(), tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
            making = _Making(state, mesh, Path(folder), passphrase or own, tuple(sorted(set(left_out))))
            manifest, held_ms = making.gather(databases)
            fresh = making.write(manifest)
            _check_target(state, file, force)
            fresh.replace(file)
        sync_folder(file.parent)
    except OSError as error:
        raise CommandFailed(
            f"{file}: {(error.strerror or str(error)).lower()}", "nothing was written"
        ) from None
    _report(file, manifest, held_ms, as_json, own_passphrase=passphrase is not None)


@dataclass(frozen=True, slots=True)
class _Making:
    """One backup on its way, in a folder of its own beside the file it becomes."""

    state: State
    mesh: MeshFile
    folder: Path
    passphrase: bytes | None
    left_out: tuple[str, ...]

    def gather(self, databases: Sequence[Database]) -> tuple[Manifest, float]:
        """Every part, of one instant; and for how many ms that held up writers."""
        parts = self.folder / "parts"
        parts.mkdir()
        with ExitStack() as pinned:
            # A step of the root roll waits too, so the CA is of that instant as well.
            with authority.standing_still(self.state, self.mesh) as ca:
                taken = pinned.enter_context(cut(databases))
                created = utc_now()
                mesh_file = self.state.mesh_file.read_bytes()
            _say(f"writers were held up for {taken.held_ms:.1f} ms")
            ca.copy_to(parts / "ca", self.passphrase)
            (parts / "ca" / "lock").unlink()
            (parts / "mesh.toml").write_bytes(mesh_file)
            (parts / "control").mkdir()
            if self.state.control_ports.exists():
                (parts / "control" / "ports.json").write_bytes(self.state.control_ports.read_bytes())
            for part, book in taken.books.items():
                (parts / part).parent.mkdir(exist_ok=True)
                book.copy(parts / part)
                _say(f"copied {part}, {(parts / part).stat().st_size:,} bytes")
        store = self._store(parts, ca)
        names = sorted(str(path.relative_to(parts)) for path in parts.rglob("*") if path.is_file())
        manifest = Manifest(
            format=archive.FORMAT,
            hauberk=__version__,
            created=f"{created:%Y-%m-%dT%H:%M:%SZ}",
            trust_domain=ca.trust_domain,
            mesh_id=ca.mesh_id,
            keys="plain" if self.passphrase is None else "encrypted",
            revoked=tuple(sorted(store.revoked)) if store else (),
            without=self.left_out,
            parts=tuple(archive.measured(parts, name) for name in names),
        )
        return manifest, taken.held_ms

    def write(self, manifest: Manifest) -> Path:
        fresh = self.folder / "backup"
        archive.write(fresh, manifest, self.folder / "parts")
        return fresh

    def _store(self, parts: Path, ca: Authority) -> ControlStore | None:
        """The control plane's store, cleaned and known to be this CA's; the mark beside the CA."""
        had = self.state.had_a_store.exists()
        path = parts / "control" / "control.db"
        if had:
            (parts / "ca" / self.state.had_a_store.name).write_text(f"{ca.mesh_id}\n")
        if not path.exists():
            return None
        store = ControlStore.read(path)
        if store.mesh_id != ca.mesh_id and (store.mesh_id or had):
            raise CommandFailed(
                f"the store is of mesh {store.mesh_id or 'nobody'}, the CA of mesh {ca.mesh_id}",
                "a backup of both would not start: find the store that belongs to this CA",
            )
        forget_tokens(path)
        return store


def _databases(state: State, mesh: MeshFile, left_out: tuple[str, ...]) -> list[Database]:
    """Those to save, all of which are there. Raises CommandFailed for one that cannot be saved."""
    wanted: list[Database] = []
    for database in without(databases_of(state, mesh), left_out):
        if isinstance(database, ServerDatabase):
            if not database.is_postgresql:
                raise CommandFailed(
                    f"{database} cannot be saved by hauberk",
                    f"save it by its own tools, and say so: --without {database.owners[0]}",
                )
            wanted.append(database)
        elif database.path.exists():
            wanted.append(database)
        elif CONTROL in database.owners and state.had_a_store.exists():
            raise CommandFailed(
                f"the control plane's store is missing: {database.path}",
                "restore it from an older backup; without it the mesh does not start",
            )
    return wanted


def _check_target(state: State, file: Path, force: bool) -> None:
    if file.is_dir():
        raise CommandFailed(f"{file} is a folder", "name a file in it")
    if not file.parent.is_dir():
        raise CommandFailed(f"{file}: there is no folder {file.parent}", "make it, or name another")
    if file.resolve().is_relative_to(state.folder.resolve()):
        raise CommandFailed(f"{file} lies in what it is a backup of", "name a place outside of .hauberk/")
    if file.exists() and not force:
        raise CommandFailed(f"{file} is there already", "name another, or replace it: --force")


def _report(file: Path, manifest: Manifest, held_ms: float, as_json: bool, *, own_passphrase: bool) -> None:
    size = file.stat().st_size
    if as_json:
        print_json(
            {
                "file": str(file),
                "bytes": size,
                "created": manifest.created,
                "trust_domain": manifest.trust_domain,
                "mesh_id": manifest.mesh_id,
                "keys": manifest.keys,
                "writers_held_ms": held_ms,
                "parts": [part.name for part in manifest.parts],
                "without": list(manifest.without),
            }
        )
        return
    click.echo(
        f"{file}: mesh {manifest.trust_domain} as of {manifest.created}, {size:,} bytes, "
        f"the CA's keys are {manifest.keys}"
    )
    if manifest.without:
        click.echo(f"not in it, save them by their own tools: {', '.join(manifest.without)}", err=True)
    key = " --passphrase-file FILE, the same" if own_passphrase else ""
    click.echo(f"to get it back: hauberk restore {file}{key}")


def _say(text: str) -> None:
    click.echo(f"hauberk | {text}", err=True)
