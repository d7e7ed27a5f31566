"""The CA folder of one mesh.toml: made when it is missing, opened with its passphrase where one is set."""

from datetime import datetime

from hauberk.certs.authority import Authority
from hauberk.certs.clock import utc_now
from hauberk.certs.errors import CertsError
from hauberk.cli.errors import CommandFailed
from hauberk.cli.mesh_file import MeshFile
from hauberk.cli.state import State


def exists(state: State) -> bool:
    return (state.ca / "authority.json").exists()


def create(state: State, mesh: MeshFile, *, now: datetime | None = None) -> Authority:
    """A new authority for the mesh's trust domain and the names its control plane is dialled by."""
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
        raise CommandFailed(f"no authority was made: {error}", "look at it: hauberk ca show") from error


def load(state: State, mesh: MeshFile) -> Authority:
    """The authority, which must be of the mesh's trust domain."""
    try:
        authority = Authority.load(state.ca, passphrase(state, mesh))
    except CertsError as error:
        raise CommandFailed(f"the authority cannot be opened: {error}") from error
    if authority.trust_domain != mesh.trust_domain:
        raise CommandFailed(
            f"{state.ca} signs for {authority.trust_domain}, {state.mesh_file.name} says {mesh.trust_domain}",
            f"write trust_domain = {authority.trust_domain!r} again, or move {state.folder} away",
        )
    return authority


def passphrase(state: State, mesh: MeshFile) -> bytes | None:
    """What the CA's keys are encrypted with, from the file that mesh.toml names; None if it names none."""
    if not mesh.control.ca_passphrase_file:
        return None
    path = state.mesh_file.parent / mesh.control.ca_passphrase_file
    try:
        return path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise CommandFailed(
            f"[control] ca_passphrase_file: {path}: {error.strerror}", "make it, or correct its name"
        ) from None
