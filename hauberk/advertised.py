"""What callers are told to connect to."""

import socket

from hauberk.errors import SettingsError
from hauberk.settings import parse_address

_EVERY_ADDRESS = frozenset({"0.0.0.0", "[::]", "*"})  # noqa: S104 - compared, not bound


def advertised(address: str, advertise: str | None) -> str:
    """An IP address with its port, as endpoints over xDS must be. May ask DNS.

    Raises SettingsError if nobody could connect to it.
    """
    host, port = parse_address(address)
    if advertise is not None and ":" in advertise:
        host, port = parse_address(advertise)
    elif advertise is not None:
        host = advertise
    elif host in _EVERY_ADDRESS:
        raise SettingsError(f"HAUBERK_ADVERTISE is missing: {host} cannot be dialled; set it to our address")
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SettingsError(f"HAUBERK_ADVERTISE: {host} has no address: {error.strerror}") from error
    family, *_, sockaddr = min(found, key=lambda each: each[0] is not socket.AF_INET)
    return f"{sockaddr[0]}:{port}" if family is socket.AF_INET else f"[{sockaddr[0]}]:{port}"
