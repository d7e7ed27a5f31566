"""Whom we trust: the anchors of each trust domain, and the intermediates known below them.

A leaf is accepted only under an anchor of its own trust domain, whatever else is trusted: so no federated
domain can name our workloads, nor we theirs (SPIFFE Trust Domain and Bundle, section 4).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from hauberk.certs import chain as chains
from hauberk.certs import pem as pems
from hauberk.certs.errors import BundleError, ChainError, IdentityError
from hauberk.certs.identity import LeafIdentity, identify_certificate, parse_trust_domain

MAX_PRESENTED = 8
"""Certificates one peer may present; core has its own limits, a caller's list has not."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """The anchors of each trust domain, never none; immutable, equal by content."""

    anchors: Mapping[str, tuple[x509.Certificate, ...]] = field(repr=False, compare=False)
    intermediates: tuple[x509.Certificate, ...] = field(default=(), repr=False, compare=False)
    fingerprint: str = field(init=False)
    """SHA-256 over the content, hex; order does not matter."""

    def __post_init__(self) -> None:
        anchors = {domain: tuple(dict.fromkeys(roots)) for domain, roots in sorted(self.anchors.items())}
        intermediates = tuple(dict.fromkeys(self.intermediates))
        _check_domains(anchors)
        for certificate in (certificate for roots in anchors.values() for certificate in roots):
            _check_anchor(certificate)
        for certificate in intermediates:
            _check_intermediate(certificate)
        object.__setattr__(self, "anchors", MappingProxyType(anchors))
        object.__setattr__(self, "intermediates", intermediates)
        object.__setattr__(self, "fingerprint", _fingerprint(anchors, intermediates))

    @classmethod
    def parse(cls, trust_domain: str, pem: bytes, intermediates_pem: bytes = b"") -> Self:
        """One trust domain's bundle from PEM. Raises BundleError if it is empty, unreadable or no roots."""
        return cls({trust_domain: parse_certificates(pem)}, parse_certificates(intermediates_pem))

    def merge(self, other: Self) -> Self:
        """Both bundles in one; where both know a trust domain, its anchors are joined."""
        domains = self.anchors.keys() | other.anchors.keys()
        anchors = {domain: self.anchors.get(domain, ()) + other.anchors.get(domain, ()) for domain in domains}
        return type(self)(anchors, self.intermediates + other.intermediates)

    def pem(self) -> bytes:
        """Every anchor of every trust domain, for libraries that know no trust domains (gRPC, OpenSSL)."""
        return b"".join(pems.write(roots) for roots in self.anchors.values())

    def verify(self, chain: Sequence[x509.Certificate], *, now: datetime) -> LeafIdentity:
        """Whom the chain (leaf first) proves, at `now` (aware UTC).

        Raises ChainError if the leaf is no workload's certificate, or does not lead, through the chain's or
        our own intermediates, to an anchor of the trust domain it names.
        """
        if not chain or len(chain) > MAX_PRESENTED:
            raise ChainError(f"chain has {len(chain)} certificates, 1 to {MAX_PRESENTED} are accepted")
        try:
            for certificate in chain:
                pems.check_readable(certificate)
            identity = identify_certificate(chain[0])
        except (ValueError, IdentityError) as error:
            raise ChainError(str(error)) from error
        anchors = self.anchors.get(identity.spiffe_id.trust_domain)
        if anchors is None:
            raise ChainError(f"trust domain is not trusted: {identity.spiffe_id.trust_domain!r:.99}")
        chains.walk(chain[0], (*self.intermediates, *chain[1:]), anchors, now=now)
        return identity

    def verify_leaf(self, leaf: x509.Certificate, *, now: datetime) -> LeafIdentity:
        """`verify` for a leaf alone, through the intermediates we know: gRPC shows a server only the leaf."""
        return self.verify((leaf,), now=now)


def parse_certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in `pem`, perhaps none. Raises BundleError if it is anything else."""
    if b"PRIVATE KEY" in pem:
        raise BundleError("bundle holds a private key, which it must not")
    if not pem.strip():
        return ()
    try:
        return pems.parse(pem)
    except ValueError as error:
        raise BundleError(f"bundle: {error}") from error


def _check_domains(anchors: Mapping[str, tuple[x509.Certificate, ...]]) -> None:
    if not anchors or not all(anchors.values()):
        raise BundleError("bundle is empty: trusting nobody is no way to run")
    for domain in anchors:
        try:
            parse_trust_domain(domain)
        except IdentityError as error:
            raise BundleError(str(error)) from error
        # /prod/orders in mesh.test and /orders in prod.mesh.test have one DNS name: not both can be trusted.
        for other in anchors:
            if domain.endswith(f".{other}"):
                raise BundleError(
                    f"trust domain {domain!r} lies within {other!r}: their dns names could collide"
                )


def _check_anchor(certificate: x509.Certificate) -> None:
    try:
        pems.check_readable(certificate)
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise BundleError("anchor is not readable and self-signed") from error
    try:
        chains.check_ca(certificate, intermediates_below=0)
    except ChainError as error:
        raise BundleError(f"anchor cannot be used: {error}") from error


def _check_intermediate(certificate: x509.Certificate) -> None:
    try:
        pems.check_readable(certificate)
        chains.check_ca(certificate, intermediates_below=0)
    except (ValueError, ChainError) as error:
        raise BundleError(f"intermediate cannot be used: {error}") from error


def _fingerprint(
    anchors: Mapping[str, tuple[x509.Certificate, ...]], intermediates: Sequence[x509.Certificate]
) -> str:
    digest = hashlib.sha256()
    for domain, roots in (*anchors.items(), ("", tuple(intermediates))):
        digest.update(f"{domain}\n{len(roots)}\n".encode())
        for fingerprint in sorted(certificate.fingerprint(hashes.SHA256()) for certificate in roots):
            digest.update(fingerprint)
    return digest.hexdigest()
