"""Certificates as PEM, read whole: what is read here has no part left that fails later (RFC 7468).

cryptography reads much of a certificate only when asked for it, and damage surfaces then, as one of many
errors.
"""

from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    CryptographyDeprecationWarning,  # an error only where warnings are made errors
)
"""What cryptography raises for certificates and requests it cannot read."""


def parse(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in `pem`, at least one. Raises ValueError if there is none, or one cannot be read."""
    try:
        certificates = tuple(x509.load_pem_x509_certificates(pem))
    except UNREADABLE as error:
        raise ValueError("not pem certificates") from error
    for certificate in certificates:
        check_readable(certificate)
    return certificates


def write(certificates: Iterable[x509.Certificate]) -> bytes:
    """The certificates as PEM, in their order."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def check_readable(certificate: x509.Certificate) -> None:
    """Raises ValueError if any part of `certificate` that we ever ask for cannot be read."""
    try:
        _ = (certificate.version, certificate.serial_number, certificate.subject, certificate.issuer)
        _ = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        _ = (certificate.public_key(), certificate.extensions, certificate.signature_hash_algorithm)
    except UNREADABLE as error:
        raise ValueError("certificate is unreadable") from error
    if certificate.serial_number <= 0:  # RFC 5280 section 4.1.2.2; cryptography only warns, today
        raise ValueError("certificate has a serial number that is not positive")
