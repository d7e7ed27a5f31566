"""Makes certificates good and bad: what an honest authority never would, and what a dishonest one might."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku
from cryptography.x509.oid import NameOID

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
OURS = "spiffe://mesh.test/orders"
BOTH = (Eku.SERVER_AUTH, Eku.CLIENT_AUTH)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Party:
    """A certificate, its key, and the one that signed it."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)
    issuer: "Party | None" = field(default=None, repr=False)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def new_key() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def name(common_name: str | None) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def dns(text: str) -> x509.DNSName:
    return x509.DNSName(text)


def constraints(
    permitted: Sequence[x509.GeneralName] | None = None, excluded: Sequence[x509.GeneralName] | None = None
) -> tuple[x509.ExtensionType, bool]:
    return x509.NameConstraints(permitted, excluded), True


UNKNOWN_CRITICAL = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00"), True)


def certificate(
    *,
    subject: str | None,
    issuer: Party | None,
    key: PrivateKey,
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
    begins: datetime = NOW - HOUR,
    ends: datetime = NOW + HOUR,
    signed_by: PrivateKey | None = None,
) -> Party:
    """`signed_by` signs in the issuer's name without being it."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(issuer.certificate.subject if issuer else name(subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    issuer_key = issuer.key.public_key() if issuer else key.public_key()
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    signer = signed_by or (issuer.key if issuer else key)
    return Party(builder.sign(signer, hashes.SHA256()), key, issuer)


def ca(
    subject: str = "root",
    issuer: Party | None = None,
    *,
    key: PrivateKey | None = None,
    basic: x509.BasicConstraints | None = x509.BasicConstraints(ca=True, path_length=None),  # noqa: B008
    key_usage: x509.KeyUsage | None = None,
    extra: Iterable[tuple[x509.ExtensionType, bool]] = (),
    begins: datetime = NOW - HOUR,
    ends: datetime = NOW + HOUR,
    signed_by: PrivateKey | None = None,
) -> Party:
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (key_usage or usage(key_cert_sign=True, crl_sign=True), True),
        *extra,
    ]
    if basic is not None:
        extensions.insert(0, (basic, True))
    return certificate(
        subject=subject,
        issuer=issuer,
        key=key or new_key(),
        extensions=extensions,
        begins=begins,
        ends=ends,
        signed_by=signed_by,
    )


def leaf(
    issuer: Party | None,
    *,
    names: Sequence[x509.GeneralName] | None = (uri(OURS), dns("orders.mesh.test")),
    subject: str | None = None,
    key: PrivateKey | None = None,
    is_ca: bool | None = False,
    key_usage: x509.KeyUsage | None = usage(digital_signature=True),  # noqa: B008
    usage_critical: bool = True,
    extended: Sequence[x509.ObjectIdentifier] | None = BOTH,
    extra: Iterable[tuple[x509.ExtensionType, bool]] = (),
    begins: datetime = NOW - HOUR,
    ends: datetime = NOW + HOUR,
    signed_by: PrivateKey | None = None,
) -> Party:
    """A perfect SVID of ours, but for what the arguments say; None leaves an extension out."""
    extensions: list[tuple[x509.ExtensionType, bool]] = list(extra)
    if is_ca is not None:
        extensions.append((x509.BasicConstraints(ca=is_ca, path_length=None), True))
    if key_usage is not None:
        extensions.append((key_usage, usage_critical))
    if extended is not None:
        extensions.append((x509.ExtendedKeyUsage(extended), False))
    if names is not None:
        extensions.append((x509.SubjectAlternativeName(names), subject is None))
    return certificate(
        subject=subject,
        issuer=issuer,
        key=key or new_key(),
        extensions=extensions,
        begins=begins,
        ends=ends,
        signed_by=signed_by,
    )
