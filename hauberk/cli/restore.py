"""`hauberk restore`: a mesh as a backup has it, where there is none or in place of one that is moved aside.

Everything is checked before anything is touched. What happened after the backup is forgotten by it: which
tokens were spent since is unknown (so all of them are refused), a root made since is trusted by nobody, and
who was revoked since is not, save those whom the mesh that is replaced can still name.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from hauberk.certs import files
from hauberk.certs.files import make_folder
from hauberk.cli import archive
from hauberk.cli.archive import Manifest
from hauberk.cli.ending import cleaned_up
from hauberk.cli.errors import CommandFailed
from hauberk.cli.options import json_option, mesh_option, passphrase_option, print_json
from hauberk.cli.restoring import Forgotten, Restoring
from hauberk.cli.state import State


@click.command("restore", epilog="Example:  hauberk restore monday.hauberk --passphrase-file FILE")
@click.argument("file", type=Path)
@passphrase_option("Open the CA's keys with what this file holds; else with mesh.toml's ca_passphrase_file.")
@click.option("--force", is_flag=True, help="Move a mesh that is here aside, to .hauberk/replaced-TIME/.")
@mesh_option
@json_option
def command(file: Path, passphrase: bytes | None, force: bool, state: State, as_json: bool) -> None:
    """Put the mesh in FILE beside mesh.toml: its CA, its store and its databases, in a .hauberk/ of its own.

    The mesh must be stopped. mesh.toml is written if there is none, and else stays as it is.
    """
    with cleaned_up(), _claimed(state), archive.reading(file) as backup:
        incoming = state.folder / "incoming"
        try:
            shutil.rmtree(incoming, ignore_errors=True)
            make_folder(incoming)
            backup.extract(incoming)
            restoring = Restoring.of(state, file, backup.manifest, incoming, passphrase)
            restoring.check_room(force)
            forgotten = restoring.forgotten()
            replaced = restoring.put()
        except OSError as error:
            what = f"{error.filename or state.folder}: {(error.strerror or str(error)).lower()}"
            raise CommandFailed(what, "nothing was changed; correct that and try again") from None
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
    answer = _Restored(
        file=file, state=state, manifest=backup.manifest, replaced=replaced, forgotten=forgotten
    )
    if as_json:
        print_json(answer.json())
    else:
        answer.show()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Restored:
    """What was restored, and what an operator has to know of it."""

    file: Path
    state: State
    manifest: Manifest
    replaced: Path | None
    forgotten: Forgotten

    def json(self) -> dict[str, object]:
        return {
            "file": str(self.file),
            "created": self.manifest.created,
            "trust_domain": self.manifest.trust_domain,
            "mesh_id": self.manifest.mesh_id,
            "parts": [part.name for part in self.manifest.parts],
            "without": list(self.manifest.without),
            "replaced": str(self.replaced) if self.replaced else None,
            "revoked": list(self.manifest.revoked),
            "still_revoked": list(self.forgotten.still_revoked),
            "revoke_again": self._to_revoke,
            "lost_roots": list(self.forgotten.roots),
        }

    def show(self) -> None:
        click.echo(f"{self.state.folder} is mesh {self.manifest.trust_domain} as of {self.manifest.created}")
        if self.replaced:
            click.echo(f"what was there is in {self.replaced}")
        for line in self._warnings():
            click.echo(f"  {line}", err=True)
        click.echo("next: hauberk up")

    @property
    def _to_revoke(self) -> list[str]:
        return [name for name in self.forgotten.revoked if name not in self.forgotten.still_revoked]

    def _warnings(self) -> Iterator[str]:
        created = self.manifest.created
        known = ", ".join(self.manifest.revoked) or "nobody"
        yield f"revoked then: {known}"
        if self.forgotten.still_revoked:
            yield f"revoked since, and still: {', '.join(self.forgotten.still_revoked)}"
        yield f"whoever else was revoked after {created} is not any more, revoke them again"
        for name in self._to_revoke:
            yield f"  hauberk revoke {name}"
        yield "join tokens of before are all refused: invite anew (hauberk invite)"
        yield f"a certificate issued after {created} is good until it ends, after one svid_lifetime at most"
        for root in self.forgotten.roots:
            yield f"made since, and trusted by nobody now, nor what it signed: root {root}"
        if self.manifest.without:
            yield f"not in the backup, bring them back first: {', '.join(self.manifest.without)}"


@contextlib.contextmanager
def _claimed(state: State) -> Iterator[None]:
    """The state folder, made if need be, which nothing of this mesh uses while the block runs."""
    if not state.mesh_file.parent.is_dir():
        raise CommandFailed(f"there is no folder {state.mesh_file.parent}", "make it, or correct --mesh")
    make_folder(state.folder)
    claim, control = state.claim(), state.folder / "control" / "lock"
    try:
        with contextlib.ExitStack() as stack:
            if control.exists():
                if not (lock := files.lock(control)):
                    raise CommandFailed(f"a control plane runs in {state.folder}", "stop it first")
                stack.enter_context(lock)
            yield
    finally:
        with contextlib.suppress(OSError):
            state.folder.rmdir()  # if we made it and put nothing in
        os.close(claim)
