"""Name constraints: what names a CA may let its certificates carry (RFC 5280 section 4.2.1.10).

DNS, URI and IP names are checked here. A constraint of any other kind makes the CA unusable, for what is
not checked must not pass. cryptography's own verifier refuses every URI constraint, hence this file.
"""

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from cryptography import x509

from hauberk.certs.errors import ChainError

CHECKED = (x509.DNSName, x509.UniformResourceIdentifier, x509.IPAddress)


def check(constraints: x509.NameConstraints, names: Iterable[x509.GeneralName]) -> None:
    """Raises ChainError unless each name is in a permitted subtree of its kind, if any, in none excluded."""
    permitted = _checked(constraints.permitted_subtrees)
    excluded = _checked(constraints.excluded_subtrees)
    for name in names:
        bases = [base for base in permitted if type(base) is type(name)]
        if bases and not any(_within(name, base) for base in bases):
            raise ChainError(f"name is outside what its ca may sign: {str(name.value)!r:.99}")
        if any(_within(name, base) for base in excluded if type(base) is type(name)):
            raise ChainError(f"name is excluded from what its ca may sign: {str(name.value)!r:.99}")


def _checked(subtrees: Iterable[x509.GeneralName] | None) -> tuple[x509.GeneralName, ...]:
    bases = tuple(subtrees or ())
    for base in bases:
        if not isinstance(base, CHECKED):
            raise ChainError(
                f"ca has a name constraint of a kind we do not check: {type(base).__name__.lower()}"
            )
    return bases


def _within(name: x509.GeneralName, base: x509.GeneralName) -> bool:
    match name, base:
        case x509.DNSName(value=dns_name), x509.DNSName(value=subtree):
            return _dns_within(dns_name.lower(), subtree.lower())
        case x509.UniformResourceIdentifier(value=uri), x509.UniformResourceIdentifier(value=subtree):
            return _host_within(_host(uri), subtree.lower())
        case x509.IPAddress(value=address), x509.IPAddress(value=network):
            return _ip_within(address, network)
    return False


def _dns_within(dns_name: str, subtree: str) -> bool:
    """A DNS subtree holds its base and all below it; "" holds all; a leading dot leaves out the base."""
    if not subtree or dns_name == subtree:
        return True
    return dns_name.endswith(subtree if subtree.startswith(".") else f".{subtree}")


def _host_within(host: str, subtree: str) -> bool:
    """A URI subtree is one host exactly; with a leading dot, every host below and not that one itself."""
    if subtree.startswith("."):
        return host.endswith(subtree) and host != subtree
    return host == subtree


def _host(uri: str) -> str:
    try:
        host = urlsplit(uri).hostname
    except ValueError:
        host = None
    if not host:
        raise ChainError(f"uri name without a host, under a ca with uri constraints: {uri!r:.99}")
    return host


def _ip_within(address: object, network: object) -> bool:
    if not isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address):
        return False
    return isinstance(network, ipaddress.IPv4Network | ipaddress.IPv6Network) and address in network
