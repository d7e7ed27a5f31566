"""The walk from a leaf to a trust anchor (RFC 5280 section 6.1, without policies).

Each step checks issuer, signature, dates, CA bits, key usage, path length and unknown critical extensions;
the whole path is then held against every name constraint in it. Stricter than the RFC where that is
simpler: anchors are checked like other CAs, self-issued certificates count and are constrained like any
other. Held against OpenSSL and Go in tests/certs/test_chain_differential.py.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from hauberk.certs import constraints
from hauberk.certs.errors import ChainError

MAX_DEPTH = 3
"""Certificates above the leaf: at most two intermediates and the anchor."""
MAX_SIGNATURES = 16
"""Signatures tried for one leaf, so that no pile of look-alike intermediates can cost more."""

E = TypeVar("E", bound=x509.ExtensionType)

_RSA_BITS = range(2048, 8193)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)
_UNDERSTOOD_IN_CA = _UNDERSTOOD | {ExtensionOID.NAME_CONSTRAINTS}


def walk(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
    *,
    now: datetime,
) -> tuple[x509.Certificate, ...]:
    """A path from `leaf` to one of `anchors`, both included; or ChainError with the last reason found."""
    _check_critical(leaf, _UNDERSTOOD)
    _check_dates(leaf, now)
    return _Search(intermediates, anchors, now).from_leaf(leaf)


class _Search:
    """One depth-first search: what it may use, what it has spent, why it last turned back."""

    def __init__(
        self, intermediates: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], now: datetime
    ) -> None:
        self._anchors = anchors
        self._issuers = (*anchors, *intermediates)
        self._now = now
        self._signatures_left = MAX_SIGNATURES
        self._reason: ChainError | None = None

    def from_leaf(self, leaf: x509.Certificate) -> tuple[x509.Certificate, ...]:
        path = self._extend((leaf,))
        if path is None:
            raise self._reason or ChainError(f"no trusted issuer known: {leaf.issuer.rfc4514_string()!r:.99}")
        return path

    def _extend(self, path: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...] | None:
        for issuer in self._issuers:
            if issuer.subject != path[-1].issuer or issuer in path:
                continue
            try:
                self._check_step(path, issuer)
                longer = (*path, issuer)
                if issuer in self._anchors:
                    _check_names(longer)
                    return longer
            except ChainError as error:
                self._reason = error
                continue
            if (found := self._extend(longer)) is not None:
                return found
        return None

    def _check_step(self, path: tuple[x509.Certificate, ...], issuer: x509.Certificate) -> None:
        if len(path) > MAX_DEPTH:
            raise ChainError(f"chain is deeper than {MAX_DEPTH}")
        if self._signatures_left == 0:
            raise ChainError(f"more than {MAX_SIGNATURES} signatures to check for one leaf")
        self._signatures_left -= 1
        _check_signature(path[-1], issuer)
        _check_dates(issuer, self._now)
        check_ca(issuer, intermediates_below=len(path) - 1)


def check_ca(certificate: x509.Certificate, *, intermediates_below: int) -> None:
    """Raises ChainError unless `certificate` may sign others, with that many CAs between it and the leaf."""
    subject = repr(certificate.subject.rfc4514_string())[:99]
    _check_critical(certificate, _UNDERSTOOD_IN_CA)
    basic = _extension(certificate, x509.BasicConstraints)
    if basic is None or not basic.ca:
        raise ChainError(f"issuer is no ca: {subject}")
    if basic.path_length is not None and intermediates_below > basic.path_length:
        raise ChainError(f"more intermediates than the ca allows: {subject}")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None or not usage.key_cert_sign:
        raise ChainError(f"issuer may not sign certificates: {subject}")
    extended = _extension(certificate, x509.ExtendedKeyUsage)
    if extended is not None and not _authenticates(extended):
        raise ChainError(f"issuer's extended key usage lacks server or client authentication: {subject}")
    match certificate.public_key():
        case ec.EllipticCurvePublicKey(curve=curve) if isinstance(curve, _CURVES):
            pass
        case rsa.RSAPublicKey(key_size=bits) if bits in _RSA_BITS:
            pass
        case _:
            raise ChainError(f"issuer's key is of a kind or size we do not accept: {subject}")


def _authenticates(usages: Iterable[x509.ObjectIdentifier]) -> bool:
    found = set(usages)
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    return both <= found or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in found


def _check_signature(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        if not isinstance(certificate.signature_hash_algorithm, _HASHES):
            raise ChainError("signature is not made with sha-256, sha-384 or sha-512")
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise ChainError(f"signature is not by {issuer.subject.rfc4514_string()!r:.99}") from error


def _check_dates(certificate: x509.Certificate, now: datetime) -> None:
    subject = repr(certificate.subject.rfc4514_string())[:99]
    if now > certificate.not_valid_after_utc:
        raise ChainError(f"certificate {subject} expired at {certificate.not_valid_after_utc.isoformat()}")
    if now < certificate.not_valid_before_utc:
        raise ChainError(f"certificate {subject} begins at {certificate.not_valid_before_utc.isoformat()}")


def _check_critical(certificate: x509.Certificate, understood: frozenset[x509.ObjectIdentifier]) -> None:
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in understood:
            raise ChainError(f"critical extension is not understood: {extension.oid.dotted_string}")


def _check_names(path: tuple[x509.Certificate, ...]) -> None:
    """Each CA's constraints, against the names of everything below it."""
    for height, authority in enumerate(path[1:], start=1):
        permitted = _extension(authority, x509.NameConstraints)
        if permitted is not None:
            for certificate in path[:height]:
                constraints.check(permitted, _extension(certificate, x509.SubjectAlternativeName) or ())


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
