"""What our certificates look like: root, intermediate and leaf.

Sources: X509-SVID sections 2 to 4 and appendix A; RFC 5280 sections 4.1.2.6 (an empty subject makes the
alternative name critical) and 4.2.1.10 (name constraints). Root and intermediate carry the same
constraints, because some verifiers do not apply an anchor's own.
"""

import ipaddress
from collections.abc import Iterable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hauberk.certs.identity import SCHEME, SpiffeId
from hauberk.certs.keys import PublicKey
from hauberk.certs.svid import BACK_DATED

ROOT_LIFETIME = timedelta(days=5 * 365)


def root(
    key: ec.EllipticCurvePrivateKey, trust_domain: str, *, now: datetime, dns_names: Iterable[str] = ()
) -> x509.Certificate:
    """A self-signed root that may sign for `trust_domain` and, beyond it, for `dns_names` only."""
    name = _ca_name("root")
    builder = _ca(name, name, key.public_key(), trust_domain, dns_names, path_length=1)
    return _dated(builder, now, now + ROOT_LIFETIME).sign(key, hashes.SHA256())


def intermediate(
    public_key: PublicKey,
    trust_domain: str,
    *,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    dns_names: Iterable[str] = (),
) -> x509.Certificate:
    """A CA under `issuer` that signs leaves only and ends when its issuer does."""
    builder = _ca(
        _ca_name("intermediate"), issuer.subject, public_key, trust_domain, dns_names, path_length=0
    )
    builder = builder.add_extension(_issuer_identifier(issuer), critical=False)
    return _dated(builder, now, issuer.not_valid_after_utc).sign(issuer_key, hashes.SHA256())


def leaf(
    public_key: PublicKey,
    spiffe_id: SpiffeId,
    *,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    lifetime: timedelta,
    dns_names: Iterable[str] = (),
    ip_addresses: Iterable[str] = (),
) -> x509.Certificate:
    """An X509-SVID: one SPIFFE ID, its DNS name, both directions of TLS; ends no later than its issuer.

    `dns_names` and `ip_addresses` are further names, which only the control plane's SVID has.
    """
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
    names += [x509.DNSName(name) for name in dict.fromkeys((spiffe_id.dns_name, *dns_names))]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in dict.fromkeys(ip_addresses)]
    builder = (
        _builder(x509.Name([]), issuer.subject, public_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_BOTH_DIRECTIONS), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(_issuer_identifier(issuer), critical=False)
    )
    return _dated(builder, now, min(now + lifetime, issuer.not_valid_after_utc)).sign(
        issuer_key, hashes.SHA256()
    )


_BOTH_DIRECTIONS = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def _ca(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKey,
    trust_domain: str,
    dns_names: Iterable[str],
    *,
    path_length: int,
) -> x509.CertificateBuilder:
    permitted = [x509.UniformResourceIdentifier(trust_domain), *map(x509.DNSName, (trust_domain, *dns_names))]
    own_name = x509.UniformResourceIdentifier(f"{SCHEME}{trust_domain}")
    return (
        _builder(subject, issuer, public_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .add_extension(x509.SubjectAlternativeName([own_name]), critical=False)
    )


def _builder(subject: x509.Name, issuer: x509.Name, public_key: PublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _dated(builder: x509.CertificateBuilder, now: datetime, end: datetime) -> x509.CertificateBuilder:
    return builder.not_valid_before(now - BACK_DATED).not_valid_after(end)


def _ca_name(kind: str) -> x509.Name:
    # Each CA has a subject of its own: verifiers find issuers by name, and a roll has two of each.
    number = x509.random_serial_number() >> 96
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "hauberk"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"hauberk {kind} {number:016x}"),
        ]
    )


def _issuer_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
