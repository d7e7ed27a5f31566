"""Who someone is: a SPIFFE ID, and the certificate that carries it.

The grammar is SPIFFE-ID section 2, narrowed: no capitals (exact matching in gRPC core ignores case, so two
names that differ in case would be one), and a path is always there (without one the ID names the trust
domain itself, and belongs to signing certificates: X509-SVID section 2). A certificate's identity is read
from the certificate, never from gRPC's auth context, which cuts values at NUL.
"""

import base64
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from hauberk.certs import pem as pems
from hauberk.certs.errors import IdentityError

SCHEME = "spiffe://"
MAX_ID_BYTES = 2048
MAX_TRUST_DOMAIN_BYTES = 255
MAX_DNS_NAME_BYTES = 253
RESERVED_NAMES = frozenset({"control"})
"""First path segments nobody can be invited as; the authority signs them for itself."""

_TRUST_DOMAIN = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.ASCII)
_PATH = re.compile(r"(/(?!\.{1,2}(/|\Z))[a-z0-9._-]+)+", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_RSA_BITS = range(2048, 8193)


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A workload's name: `SpiffeId("mesh.test", "/prod/orders")`, written `spiffe://mesh.test/prod/orders`."""

    trust_domain: str
    path: str
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parse_trust_domain(self.trust_domain)
        if not self.path:
            raise IdentityError(f"spiffe id without a path: {SCHEME + self.trust_domain!r:.99}")
        if not _PATH.fullmatch(self.path):
            raise IdentityError(
                f"spiffe id path is not lower-case segments of [a-z0-9._-]: {self.path!r:.99}"
            )
        text = f"{SCHEME}{self.trust_domain}{self.path}"
        if len(text) > MAX_ID_BYTES:
            raise IdentityError(f"spiffe id longer than {MAX_ID_BYTES} bytes: {self.path!r:.99}")
        object.__setattr__(self, "_text", text)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The ID that `text` spells, or IdentityError saying what is wrong with it (SPIFFE-ID section 2)."""
        if not text.startswith(SCHEME):
            raise IdentityError(f"spiffe id does not start with 'spiffe://': {text!r:.99}")
        trust_domain, slash, path = text.removeprefix(SCHEME).partition("/")
        return cls(trust_domain, slash + path)

    @classmethod
    def of(cls, trust_domain: str, name: str) -> Self:
        """The ID of the workload `name` ("orders", "prod/orders") in `trust_domain`."""
        return cls(trust_domain, f"/{name}")

    @property
    def name(self) -> str:
        """The path without its first slash: what people type."""
        return self.path[1:]

    @property
    def dns_name(self) -> str:
        """`orders.prod.mesh.test` for `/prod/orders` in `mesh.test`, for clients that match DNS names only.

        Raises IdentityError unless each segment is a DNS label: two IDs of one trust domain then never
        share a DNS name. RFC 1123 section 2.1; at most 253 bytes.
        """
        segments = self.path[1:].split("/")
        for segment in segments:
            if not _LABEL.fullmatch(segment):
                raise IdentityError(f"path segment is not a dns label: {segment!r:.99} in {str(self)!r:.99}")
        dns_name = ".".join([*reversed(segments), self.trust_domain])
        if len(dns_name) > MAX_DNS_NAME_BYTES:
            raise IdentityError(f"dns name longer than {MAX_DNS_NAME_BYTES} bytes: {dns_name!r:.99}")
        return dns_name

    def __str__(self) -> str:
        return self._text

    def __hash__(self) -> int:
        return hash(self._text)  # which a string remembers: each call looks its caller up


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafIdentity:
    """What one leaf certificate says about its holder; nothing here is proven until a Bundle verified it."""

    spiffe_id: SpiffeId
    not_before: datetime
    not_after: datetime
    serial: int
    x5t_s256: str
    """SHA-256 of the DER certificate, base64url without padding (RFC 8705 section 3.1)."""
    certificate: x509.Certificate = field(repr=False, compare=False)


def parse_trust_domain(text: str) -> str:
    """`text` if it is a trust domain's name (SPIFFE-ID section 2.1), else IdentityError."""
    if len(text) > MAX_TRUST_DOMAIN_BYTES:
        raise IdentityError(f"trust domain longer than {MAX_TRUST_DOMAIN_BYTES} bytes: {text!r:.99}")
    if not _TRUST_DOMAIN.fullmatch(text):
        raise IdentityError(f"trust domain is not lower-case labels of [a-z0-9_-]: {text!r:.99}")
    return text


def parse_dns_name(text: str) -> str:
    """`text` if it is a lower-case DNS name (RFC 1123 section 2.1), no IPv4 address; else IdentityError."""
    labels = text.split(".")
    if len(text) > MAX_DNS_NAME_BYTES or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdecimal():
        raise IdentityError(f"not a lower-case dns name: {text!r:.99}")
    return text


def issuable(spiffe_id: SpiffeId) -> SpiffeId:
    """`spiffe_id` if an authority may give it away, else IdentityError.

    It may not if its DNS name could be another's, or if it is reserved for the control plane.
    """
    parse_dns_name(spiffe_id.dns_name)
    parse_dns_name(spiffe_id.trust_domain)
    if spiffe_id.name.split("/")[0] in RESERVED_NAMES:
        raise IdentityError(f"name is reserved for the control plane: {spiffe_id.name!r}")
    return spiffe_id


def identify(pem: bytes) -> LeafIdentity:
    """Whom this one certificate names (X509-SVID sections 2, 4 and 5.2). Proves nothing: see Bundle.verify.

    Raises IdentityError naming what is wrong: no SPIFFE ID or two, a CA, wrong key usage, a weak key.
    """
    try:
        certificates = pems.parse(pem)
    except ValueError as error:
        raise IdentityError(str(error)) from error
    if len(certificates) != 1:
        raise IdentityError(f"{len(certificates)} certificates where one is expected")
    return identify_certificate(certificates[0])


def identify_certificate(certificate: x509.Certificate) -> LeafIdentity:
    """`identify` for a certificate that is already read, by pem.parse."""
    extensions = certificate.extensions
    _check_usage(extensions)
    _check_key(certificate)
    return LeafIdentity(
        spiffe_id=_spiffe_id(extensions),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        serial=certificate.serial_number,
        x5t_s256=_thumbprint(certificate),
        certificate=certificate,
    )


def _spiffe_id(extensions: x509.Extensions) -> SpiffeId:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise IdentityError("certificate has no subject alternative name") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise IdentityError(f"certificate has {len(uris)} uri names, a spiffe id is exactly one")
    return SpiffeId.parse(uris[0])


def _check_usage(extensions: x509.Extensions) -> None:
    """X509-SVID sections 4.1 to 4.4: a leaf signs handshakes, both ways, and never certificates."""
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise IdentityError("certificate is a ca, not a leaf")
    except x509.ExtensionNotFound:
        pass
    try:
        key_usage = extensions.get_extension_for_class(x509.KeyUsage)
        extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise IdentityError("certificate has no key usage or no extended key usage") from error
    usage = key_usage.value
    if not key_usage.critical:
        raise IdentityError("key usage is not critical")
    if usage.key_cert_sign or usage.crl_sign:
        raise IdentityError("leaf may sign certificates or revocation lists")
    if not usage.digital_signature:
        raise IdentityError("key usage lacks digital signature")
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(extended):
        raise IdentityError("extended key usage lacks server or client authentication")


def _check_key(certificate: x509.Certificate) -> None:
    match certificate.public_key():
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            pass
        case rsa.RSAPublicKey(key_size=bits) if bits in _RSA_BITS:
            pass
        case _:
            raise IdentityError("key is neither ec p-256, p-384 nor rsa of 2048 to 8192 bits")


def _thumbprint(certificate: x509.Certificate) -> str:
    return base64.urlsafe_b64encode(certificate.fingerprint(hashes.SHA256())).rstrip(b"=").decode("ascii")
