"""Where the control plane listens: addresses.json while it runs, and its ports for the next start.

Workloads learn the address at enrolment and keep it, so a port that was free once is asked for again.
"""

import errno
import os
import socket
from pathlib import Path

import msgspec

from hauberk.certs import files
from hauberk.certs.errors import StoreError
from hauberk.errors import ListenFailed
from hauberk.services.control.settings import Listen

ADDRESSES, PORTS = "addresses.json", "ports.json"


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """host:port of both listeners, as they are dialled, and the process that has them."""

    mesh: str
    enrolment: str
    pid: int


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """What the last process listened on."""

    mesh: int = 0
    enrolment: int = 0


def last_ports(folder: Path) -> Ports:
    """The ports of the last process; zeros if there was none, or its word cannot be read."""
    try:
        return msgspec.json.decode((folder / PORTS).read_bytes(), type=Ports)
    except (OSError, msgspec.DecodeError):
        return Ports()


def publish(folder: Path, *, mesh: str, enrolment: str) -> None:
    """Tell our neighbours on this machine that we are ready, and where. Raises ListenFailed."""
    ports = Ports(mesh=int(mesh.rpartition(":")[2]), enrolment=int(enrolment.rpartition(":")[2]))
    addresses = Addresses(mesh=mesh, enrolment=enrolment, pid=os.getpid())
    try:
        files.replace(folder / PORTS, msgspec.json.encode(ports))
        files.replace(folder / ADDRESSES, msgspec.json.encode(addresses))
    except StoreError as error:
        raise ListenFailed(f"nobody can be told where we listen: {error}") from error


def withdraw(folder: Path) -> None:
    """We are gone."""
    (folder / ADDRESSES).unlink(missing_ok=True)


def same_again(listen: Listen, port: int) -> Listen:
    """`listen`, on the `port` of last time where it leaves us the choice and the port is still free."""
    if listen.port or not port:
        return listen
    again = listen.with_port(port)
    return listen if _refusal(again) else again


def obstacle(listen: Listen) -> str | None:
    """Why nobody could listen there now, where it is one of the usual reasons."""
    match _refusal(listen):
        case errno.EADDRINUSE:
            return "another process listens there"
        case errno.EADDRNOTAVAIL:
            return "no address of this machine"
        case errno.EACCES:
            return "only root may listen there"
        case _:
            return None


def _refusal(listen: Listen) -> int:
    """The errno of an attempt to bind `listen`, -1 if it has none; 0: it can be had."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host.strip("[]"), listen.port))
        except OSError as error:
            return error.errno or -1
        except OverflowError:
            return -1
    return 0
