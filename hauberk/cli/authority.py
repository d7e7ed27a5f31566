"""The CA folder of one mesh.toml: made when it is missing, opened with its passphrase where one is set."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime

from hauberk.certs.authority import Authority
from hauberk.certs.clock import utc_now
from hauberk.certs.errors import CertsError, KeyRefused
from hauberk.cli.errors import CommandFailed
from hauberk.cli.mesh_file import MeshFile
from hauberk.cli.state import State


def exists(state: State) -> bool:
    return (state.ca / "authority.json").exists()


def create(state: State, mesh: MeshFile, *, now: datetime | None = None) -> Authority:
    """A new authority for the mesh's trust domain and the names its control plane is dialled by.

    Raises CommandFailed if there is one, or there was: none is made in the place of one that was lost.
    """
    state.check_whole()
    if not exists(state) and state.control_database.exists():
        raise CommandFailed(
            f"{state.control_database} is of a mesh whose CA is gone: {state.ca}",
            f"hauberk restore FILE; or, to begin a new mesh, move {state.folder} away",
        )
    try:
        state.make()
        return Authority.create(
            state.ca,
            mesh.trust_domain,
            now=now or utc_now(),
            passphrase=passphrase(state, mesh),
            dns_names=mesh.control.dns_names,
        )
    except CertsError as error:
        next_step = "look at it: hauberk ca show" if exists(state) else ""
        raise CommandFailed(f"no authority was made: {error}", next_step) from error


def load(state: State, mesh: MeshFile) -> Authority:
    """The authority, which must be of the mesh's trust domain."""
    with _opening(mesh):
        opened = Authority.load(state.ca, passphrase(state, mesh))
    _check_trust_domain(state, mesh, opened)
    return opened


@contextmanager
def standing_still(state: State, mesh: MeshFile) -> Iterator[Authority]:
    """The same, and nobody rolls its roots while the block runs. Raises CommandFailed."""
    with ExitStack() as stack:
        with _opening(mesh):
            held = stack.enter_context(Authority.standing_still(state.ca, passphrase(state, mesh)))
        _check_trust_domain(state, mesh, held)
        yield held


def passphrase(state: State, mesh: MeshFile) -> bytes | None:
    """What the CA's keys are encrypted with, from the file that mesh.toml names; None if it names none."""
    if not mesh.control.ca_passphrase_file:
        return None
    path = state.mesh_file.parent / mesh.control.ca_passphrase_file
    try:
        found = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise CommandFailed(
            f"[control] ca_passphrase_file: {path}: {error.strerror}", "make it, or correct its name"
        ) from None
    if not found:
        raise CommandFailed(f"[control] ca_passphrase_file: {path} is empty", "write a passphrase into it")
    return found


@contextmanager
def _opening(mesh: MeshFile) -> Iterator[None]:
    """Says why the authority cannot be opened."""
    try:
        yield
    except CertsError as error:
        named = mesh.control.ca_passphrase_file
        given = (
            f"is it the passphrase in {named}?" if named else "is it encrypted? [control] ca_passphrase_file"
        )
        next_step = given if isinstance(error, KeyRefused) else ""
        raise CommandFailed(f"the authority cannot be opened: {error}", next_step) from error


def _check_trust_domain(state: State, mesh: MeshFile, opened: Authority) -> None:
    if opened.trust_domain != mesh.trust_domain:
        raise CommandFailed(
            f"{state.ca} signs for {opened.trust_domain}, {state.mesh_file.name} says {mesh.trust_domain}",
            f"write trust_domain = {opened.trust_domain!r} again, or move {state.folder} away",
        )
