"""The folder .hauberk/ beside mesh.toml: where everything lies that a mesh on this machine writes.

    ca/                      the authority and roots.pem, whom children pin
    control/                 the control plane's database and addresses.json, while it runs
    operators/local/         the operator's credentials: what every command speaks with
    workloads/NAME-REPLICA/  credentials of each process
    identities/NAME/         credentials that people use in a workload's name (`call --as`, grpcurl)
    databases/NAME.db        what a workload keeps
    logs/NAME-REPLICA.log    what each process last said, a few megabytes at most
    up.sock                  where a running `hauberk up` can be asked
    replaced-TIME/           what a restore has put something else in the place of

CA, databases, credentials and logs outlive `hauberk up`; addresses and socket do not.
"""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from hauberk.certs.files import make_folder, told
from hauberk.cli.errors import CommandFailed, NotRunning
from hauberk.cli.mesh_file import OPERATOR, MeshFile, missing, read
from hauberk.settings import parse_address

FOLDER = ".hauberk"


class Addresses(msgspec.Struct, frozen=True):
    """Where the control plane of a running mesh listens, as it wrote it itself."""

    mesh: str
    enrolment: str
    pid: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]


@dataclass(frozen=True, slots=True)
class State:
    """The state folder of one mesh.toml."""

    mesh_file: Path
    """Absolute."""

    @classmethod
    def beside(cls, mesh_file: Path) -> "State":
        return cls(mesh_file.absolute())

    @property
    def folder(self) -> Path:
        return self.mesh_file.parent / FOLDER

    @property
    def ca(self) -> Path:
        return self.folder / "ca"

    @property
    def roots(self) -> Path:
        return self.ca / "roots.pem"

    @property
    def had_a_store(self) -> Path:
        """There once the control plane has had a store: from then on an empty one is refused."""
        return self.ca / "store"

    @property
    def addresses_file(self) -> Path:
        return self.folder / "control" / "addresses.json"

    @property
    def operator(self) -> Path:
        return self.folder / OPERATOR

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def socket(self) -> Path:
        return self.folder / "up.sock"

    @property
    def control_database(self) -> Path:
        """Where the control plane keeps its store, unless mesh.toml says another place."""
        return self.folder / "control" / "control.db"

    @property
    def control_ports(self) -> Path:
        """The ports it asks for again at its next start, where mesh.toml leaves it the choice."""
        return self.folder / "control" / "ports.json"

    @property
    def databases(self) -> Path:
        return self.folder / "databases"

    @property
    def restoring(self) -> Path:
        """There while a restore puts one mesh in the place of another, and for good if it was ended there."""
        return self.folder / "restoring"

    def workload(self, name: str, replica: int | str) -> Path:
        return self.folder / "workloads" / f"{flat(name)}-{replica}"

    def identity(self, name: str) -> Path:
        return self.folder / "identities" / flat(name)

    def database_url(self, name: str) -> str:
        return f"sqlite:///{self.databases / flat(name)}.db"

    def mesh(self) -> MeshFile:
        """mesh.toml, read and checked. Raises MeshFileError."""
        return read(self.mesh_file)

    def make(self) -> None:
        """The folders, private to us. Raises StoreError naming the remedy if one is not.

        Raises what `check_whole` raises: a new CA or an empty store must not fill a gap.
        """
        self.check_whole()
        for folder in (self.folder, *(self.folder / name for name in SUBFOLDERS)):
            make_folder(folder)

    def check_whole(self) -> None:
        """Raises CommandFailed if a restore was ended half-way."""
        if self.restoring.exists():
            raise CommandFailed(
                f"a restore was ended half-way in {self.folder}", "do it again: hauberk restore FILE"
            )

    def addresses(self) -> Addresses | None:
        """Where the control plane listens; None while none runs, or it has not said so yet."""
        try:
            found = msgspec.json.decode(self.addresses_file.read_bytes(), type=Addresses)
            for address in (found.mesh, found.enrolment):
                parse_address(address)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:  # msgspec's are ValueErrors too
            why = error.strerror if isinstance(error, OSError) else error
            raise CommandFailed(
                f"{self.addresses_file}: cannot be read: {why}", "remove it and start `hauberk up` again"
            ) from None
        return found if is_alive(found.pid) else None

    def running(self) -> Addresses:
        """`addresses`, or NotRunning; MeshFileError if there is no mesh file either."""
        found = self.addresses()
        if found is None:
            if not self.mesh_file.exists():
                raise missing(self.mesh_file)
            raise NotRunning(
                f"no control plane runs for {self.mesh_file}", "start it: hauberk up (in another terminal)"
            )
        return found

    def forget_addresses(self) -> None:
        """Raises StoreError if that cannot be."""
        with told(self.addresses_file, "cannot remove"):
            self.addresses_file.unlink(missing_ok=True)

    def claim(self) -> int:
        """The right to run this mesh, as a descriptor: ours until it is closed or this process ends.

        The folder itself is locked, so that nothing is left behind. Raises CommandFailed if somebody has it.
        """
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise CommandFailed(
                f"another `hauberk up` runs this mesh already: {self.mesh_file}",
                "stop that one, or look at it: hauberk ps; another mesh needs a folder of its own",
            ) from None
        return descriptor


def is_alive(pid: int) -> bool:
    """Whether a process of that number lives, whoever's it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


SUBFOLDERS = ("control", "operators", "workloads", "identities", "databases", "logs")


def flat(name: str) -> str:
    """A workload's name as one file name; no segment holds a dot, so no two names share one."""
    return name.replace("/", ".")
