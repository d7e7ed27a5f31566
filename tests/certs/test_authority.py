"""Promises of certs/authority.py and profile.py: what is signed, for whom, and what never is."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from hauberk.certs import keys, profile
from hauberk.certs.authority import Authority
from hauberk.certs.bundle import Bundle
from hauberk.certs.errors import AuthorityError, CertsError, CsrRefused, IdentityError
from hauberk.certs.identity import SpiffeId, identify
from hauberk.certs.profile import ROOT_LIFETIME
from hauberk.certs.svid import Svid
from tests.certs.forge import HOUR, NOW

ORDERS = SpiffeId.of("mesh.test", "prod/orders")
SECOND = timedelta(seconds=1)
E = TypeVar("E", bound=x509.ExtensionType)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ca"


@pytest.fixture
def authority(folder: Path) -> Authority:
    return Authority.create(folder, "mesh.test", now=NOW, dns_names=["localhost"])


def extension(certificate: x509.Certificate, kind: type[E]) -> x509.Extension[E]:
    return certificate.extensions.get_extension_for_class(kind)


def test_what_it_issues_names_one_workload_and_verifies(authority: Authority) -> None:
    svid = authority.issue(ORDERS, lifetime=HOUR, now=NOW)
    identity = authority.bundle.verify(svid.chain, now=NOW)
    assert identity.spiffe_id == svid.spiffe_id == ORDERS
    assert (svid.issued_at, svid.lifetime) == (NOW, HOUR)
    assert identity.not_before == NOW - 10 * SECOND
    assert authority.bundle.verify_leaf(svid.leaf, now=NOW) == identity


def test_leaf_is_as_the_x509_svid_specification_says(authority: Authority) -> None:
    leaf = authority.issue(ORDERS, lifetime=HOUR, now=NOW).leaf
    assert leaf.version is x509.Version.v3
    assert len(leaf.subject) == 0
    names = extension(leaf, x509.SubjectAlternativeName)
    assert names.critical, "RFC 5280 section 4.2.1.6: the subject is empty"
    assert list(names.value) == [
        x509.UniformResourceIdentifier("spiffe://mesh.test/prod/orders"),
        x509.DNSName("orders.prod.mesh.test"),
    ]
    usage = extension(leaf, x509.KeyUsage)
    assert usage.critical
    assert (usage.value.digital_signature, usage.value.key_cert_sign, usage.value.crl_sign) == (
        True,
        False,
        False,
    )
    assert extension(leaf, x509.BasicConstraints).value.ca is False
    assert set(extension(leaf, x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    }


def test_root_and_intermediate_may_sign_for_their_trust_domain_only(authority: Authority) -> None:
    (root,), (middle,) = authority.bundle.anchors["mesh.test"], authority.bundle.intermediates
    for certificate, path_length in ((root, 1), (middle, 0)):
        constraints = extension(certificate, x509.NameConstraints)
        assert constraints.critical
        assert constraints.value.permitted_subtrees == [
            x509.UniformResourceIdentifier("mesh.test"),
            x509.DNSName("mesh.test"),
            x509.DNSName("localhost"),
        ]
        basic = extension(certificate, x509.BasicConstraints)
        assert basic.critical
        assert (basic.value.ca, basic.value.path_length) == (True, path_length)
        usage = extension(certificate, x509.KeyUsage)
        assert usage.critical
        assert (usage.value.key_cert_sign, usage.value.digital_signature) == (True, False)
        with pytest.raises(IdentityError):
            identify(certificate.public_bytes(Encoding.PEM))


def test_root_constrains_its_own_intermediate_from_other_trust_domains(authority: Authority) -> None:
    """Even the intermediate's key in wrong hands cannot name another trust domain's workloads."""
    thief = authority._active
    forged = keys.generate()
    other = SpiffeId.of("other.test", "admin")
    leaf = profile.leaf(
        forged.public_key(), other, issuer=thief.intermediate, issuer_key=thief.key, now=NOW, lifetime=HOUR
    )
    ours = authority.bundle
    careless = Bundle({"other.test": ours.anchors["mesh.test"]}, ours.intermediates)
    with pytest.raises(CertsError, match="outside what its ca may sign"):
        careless.verify_leaf(leaf, now=NOW)


def test_serials_are_random_and_never_repeat(authority: Authority) -> None:
    serials = {authority.issue(ORDERS, lifetime=HOUR, now=NOW).leaf.serial_number for _ in range(50)}
    assert len(serials) == 50
    assert min(serials).bit_length() > 100


def test_life_is_capped_to_its_signers_end(authority: Authority) -> None:
    late = NOW + ROOT_LIFETIME - SECOND * 60
    svid = authority.issue(ORDERS, lifetime=HOUR, now=late)
    assert svid.expires_at == NOW + ROOT_LIFETIME


@pytest.mark.parametrize("when", [NOW - timedelta(days=1), NOW + ROOT_LIFETIME + SECOND])
def test_signer_out_of_its_time_signs_nothing(authority: Authority, when: datetime) -> None:
    with pytest.raises(AuthorityError):
        authority.issue(ORDERS, lifetime=HOUR, now=when)


@pytest.mark.parametrize("lifetime", [timedelta(0), -HOUR, timedelta(milliseconds=999)])
def test_life_under_a_second_is_refused(authority: Authority, lifetime: timedelta) -> None:
    with pytest.raises(AuthorityError, match="under a second"):
        authority.issue(ORDERS, lifetime=lifetime, now=NOW)


def test_another_trust_domain_is_refused(authority: Authority) -> None:
    with pytest.raises(AuthorityError, match="not our trust domain"):
        authority.issue(SpiffeId.of("other.test", "orders"), lifetime=HOUR, now=NOW)


@pytest.mark.parametrize("name", ["a.b", "a_b", "control/2", "a" * 64])
def test_name_that_could_be_anothers_is_refused(authority: Authority, name: str) -> None:
    with pytest.raises(IdentityError):
        authority.issue(SpiffeId.of("mesh.test", name), lifetime=HOUR, now=NOW)


def test_request_that_asks_for_a_name_is_refused(authority: Authority) -> None:
    asking = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(ORDERS))]), critical=True
    )
    der = asking.sign(keys.generate(), hashes.SHA256()).public_bytes(Encoding.DER)
    with pytest.raises(CsrRefused):
        authority.sign(der, ORDERS, lifetime=HOUR, now=NOW)


def test_signed_chain_belongs_to_the_requests_key(authority: Authority) -> None:
    key = keys.generate()
    chain = authority.sign(keys.csr(key), ORDERS, lifetime=HOUR, now=NOW)
    assert Svid.parse(chain, keys.to_pem(key)).spiffe_id == ORDERS


def test_control_alone_has_further_names(authority: Authority) -> None:
    svid = authority.issue(
        authority.control_id,
        lifetime=HOUR,
        now=NOW,
        dns_names=["localhost"],
        ip_addresses=["127.0.0.1", "::1"],
    )
    names = extension(svid.leaf, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["control.mesh.test", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    for extra in ({"dns_names": ["localhost"]}, {"ip_addresses": ["127.0.0.1"]}):
        with pytest.raises(AuthorityError, match="further names are for"):
            authority.issue(ORDERS, lifetime=HOUR, now=NOW, **extra)


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({"dns_names": ["orders.mesh.test"]}, "could be a workload's"),
        ({"dns_names": ["example.org"]}, "outside what its ca may sign"),
        ({"dns_names": ["*"]}, "not a lower-case dns name"),
        ({"dns_names": ["LOCALHOST"]}, "not a lower-case dns name"),
        ({"ip_addresses": ["localhost"]}, "not an ip address"),
    ],
)
def test_control_has_no_names_that_are_others(
    authority: Authority, extra: dict[str, list[str]], why: str
) -> None:
    with pytest.raises(CertsError, match=why):
        authority.issue(authority.control_id, lifetime=HOUR, now=NOW, **extra)
