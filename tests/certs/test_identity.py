"""Promises of certs/identity.py: who is named, and what is not a name."""

import base64
import hashlib
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from hauberk.certs.errors import IdentityError
from hauberk.certs.identity import SpiffeId, identify, issuable, parse_dns_name, parse_trust_domain
from tests.certs import forge

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
SEGMENTS = st.from_regex(r"[a-z0-9._-]{1,12}", fullmatch=True).filter(lambda text: text not in {".", ".."})
DOMAINS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
IDS = st.builds(
    lambda domain, segments: f"spiffe://{domain}/{'/'.join(segments)}",
    DOMAINS,
    st.lists(SEGMENTS, min_size=1, max_size=5),
)

BAD_IDS = {
    "empty": "",
    "no scheme": "mesh.test/orders",
    "other scheme": "https://mesh.test/orders",
    "scheme in capitals": "SPIFFE://mesh.test/orders",
    "one slash": "spiffe:/mesh.test/orders",
    "leading space": " spiffe://mesh.test/orders",
    "trailing newline": "spiffe://mesh.test/orders\n",
    "newline after the trust domain": "spiffe://mesh.test\n/orders",
    "no trust domain": "spiffe:///orders",
    "no path": "spiffe://mesh.test",
    "only a slash": "spiffe://mesh.test/",
    "trailing slash": "spiffe://mesh.test/orders/",
    "empty segment": "spiffe://mesh.test/prod//orders",
    "dot segment": "spiffe://mesh.test/./orders",
    "dot segment last": "spiffe://mesh.test/orders/.",
    "dot dot segment": "spiffe://mesh.test/x/../orders",
    "dot dot segment last": "spiffe://mesh.test/orders/..",
    "capital in the trust domain": "spiffe://Mesh.test/orders",
    "capital in the path": "spiffe://mesh.test/Orders",
    "percent": "spiffe://mesh.test/%6frders",
    "percent in the trust domain": "spiffe://mesh%2etest/orders",
    "nul": "spiffe://mesh.test/orders\0/admin",
    "nul last": "spiffe://mesh.test/orders\0",
    "nul in the trust domain": "spiffe://mesh.test\0.other/orders",
    "query": "spiffe://mesh.test/orders?x=1",
    "query without path": "spiffe://mesh.test?x=1",
    "fragment": "spiffe://mesh.test/orders#x",
    "port": "spiffe://mesh.test:80/orders",
    "userinfo": "spiffe://admin@mesh.test/orders",
    "ipv6": "spiffe://[::1]/orders",
    "backslash": "spiffe://mesh.test\\orders",
    "not ascii": "spiffe://mesh.test/ördërs",
    "cyrillic e": "spiffe://m\u0435sh.test/orders",
    "arabic digit": "spiffe://mesh.test/\u0661",
    "colon in a segment": "spiffe://mesh.test/a:b",
    "tilde": "spiffe://mesh.test/~orders",
    "leading dot in the trust domain": "spiffe://.mesh.test/orders",
    "trailing dot in the trust domain": "spiffe://mesh.test./orders",
    "empty label": "spiffe://mesh..test/orders",
    "trust domain of 256": f"spiffe://{'a' * 256}/orders",
    "2049 bytes": "spiffe://mesh.test/" + "a" * (2049 - len("spiffe://mesh.test/")),
}


@pytest.mark.parametrize("text", BAD_IDS.values(), ids=BAD_IDS.keys())
def test_what_is_no_spiffe_id_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(IdentityError) as refused:
        SpiffeId.parse(text)
    message = str(refused.value)
    assert message
    assert message[0].islower()
    assert message.isprintable(), "offending values are quoted, never passed on raw"
    assert len(message) < 250


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://mesh.test/orders",
        "spiffe://mesh.test/prod/orders",
        "spiffe://m/o",
        "spiffe://mesh_1.test-2/a.b/..c/...",
        "spiffe://127.0.0.1/x",
        "spiffe://" + "a" * 255 + "/x",
        "spiffe://mesh.test/" + "a" * (2048 - len("spiffe://mesh.test/")),
    ],
)
def test_what_is_a_spiffe_id_round_trips(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text


@given(IDS)
def test_every_id_of_the_grammar_round_trips(text: str) -> None:
    spiffe_id = SpiffeId.parse(text)
    assert str(spiffe_id) == text
    assert SpiffeId.of(spiffe_id.trust_domain, spiffe_id.name) == spiffe_id


@given(st.one_of(st.text(), st.text().map("spiffe://".__add__), st.text().map("spiffe://mesh.test/".__add__)))
def test_any_text_is_an_id_that_round_trips_or_is_refused(text: str) -> None:
    try:
        spiffe_id = SpiffeId.parse(text)
    except IdentityError:
        return
    assert str(spiffe_id) == text
    assert text == text.lower()
    assert not set(text) & set("%?#@\0\\ ")


@given(IDS, st.sampled_from("%?#@:\0 \nA\\~é"), st.data())
def test_one_foreign_character_anywhere_makes_an_id_bad(
    text: str, character: str, data: st.DataObject
) -> None:
    place = data.draw(st.integers(len("spiffe://"), len(text)))
    with pytest.raises(IdentityError):
        SpiffeId.parse(text[:place] + character + text[place:])


def test_an_id_cannot_be_built_around_its_parser() -> None:
    with pytest.raises(IdentityError):
        SpiffeId("mesh.test", "/../orders")
    with pytest.raises(IdentityError):
        SpiffeId("Mesh.test", "/orders")
    with pytest.raises(IdentityError):
        SpiffeId("mesh.test", "orders")
    with pytest.raises(IdentityError):
        SpiffeId.of("mesh.test", "/orders")


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "A", "a/b", "a:1", "a\n", "é", "a" * 256])
def test_what_is_no_trust_domain_is_refused(text: str) -> None:
    with pytest.raises(IdentityError):
        parse_trust_domain(text)


def test_dns_name_is_the_segments_reversed_under_the_trust_domain() -> None:
    assert SpiffeId.of("mesh.test", "orders").dns_name == "orders.mesh.test"
    assert SpiffeId.of("mesh.test", "prod/eu/orders").dns_name == "orders.eu.prod.mesh.test"


@pytest.mark.parametrize("name", ["a.b", "a_b", "-a", "a-", "a" * 64, "x/..c", "/".join(["a" * 60] * 5)])
def test_a_name_that_is_no_dns_name_has_none_and_cannot_be_issued(name: str) -> None:
    spiffe_id = SpiffeId.of("mesh.test", name)
    with pytest.raises(IdentityError):
        _ = spiffe_id.dns_name
    with pytest.raises(IdentityError):
        issuable(spiffe_id)


@given(st.lists(LABELS, min_size=1, max_size=4), st.lists(LABELS, min_size=1, max_size=4))
def test_two_issuable_names_of_one_trust_domain_never_share_a_dns_name(
    one: list[str], two: list[str]
) -> None:
    left, right = SpiffeId.of("mesh.test", "/".join(one)), SpiffeId.of("mesh.test", "/".join(two))
    assert (left.dns_name == right.dns_name) == (left == right)


@pytest.mark.parametrize("name", ["control", "control/1"])
def test_the_control_planes_name_is_nobody_elses(name: str) -> None:
    with pytest.raises(IdentityError, match="reserved"):
        issuable(SpiffeId.of("mesh.test", name))


@pytest.mark.parametrize("domain", ["10.0.0.1", "mesh_1.test", "-a.test"])
def test_nothing_is_issuable_in_a_trust_domain_that_is_no_dns_name(domain: str) -> None:
    with pytest.raises(IdentityError):
        issuable(SpiffeId.of(domain, "orders"))


@pytest.mark.parametrize("text", ["localhost", "control.example.org", "a-b.c1"])
def test_dns_names_are_accepted(text: str) -> None:
    assert parse_dns_name(text) == text


@pytest.mark.parametrize("text", ["", "*", "*.a", "A.b", "a.", "127.0.0.1", "1", "a b", "a/b", "é.test"])
def test_what_is_no_dns_name_is_refused(text: str) -> None:
    with pytest.raises(IdentityError):
        parse_dns_name(text)


# Certificates
ROOT = forge.ca()


def with_uris(*uris: str) -> forge.Party:
    return forge.leaf(ROOT, names=[forge.uri(text) for text in uris])


def weak_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 1024)


BAD_CERTIFICATES = {
    "no alternative name, a common name": lambda: forge.leaf(ROOT, names=None, subject="orders.mesh.test"),
    "dns name only": lambda: forge.leaf(ROOT, names=[forge.dns("orders.mesh.test")]),
    "two spiffe ids": lambda: with_uris(forge.OURS, "spiffe://mesh.test/admin"),
    "the same spiffe id twice": lambda: with_uris(forge.OURS, forge.OURS),
    "a spiffe id and another uri": lambda: with_uris(forge.OURS, "https://mesh.test/"),
    "https": lambda: with_uris("https://mesh.test/orders"),
    "nul": lambda: with_uris("spiffe://mesh.test/orders\0/admin"),
    "dot segments": lambda: with_uris("spiffe://mesh.test/x/../admin"),
    "percent": lambda: with_uris("spiffe://mesh.test/%69"),
    "capitals": lambda: with_uris("spiffe://MESH.TEST/orders"),
    "query": lambda: with_uris("spiffe://mesh.test/orders?x=1"),
    "port": lambda: with_uris("spiffe://mesh.test:80/orders"),
    "userinfo": lambda: with_uris("spiffe://admin@mesh.test/orders"),
    "trailing slash": lambda: with_uris("spiffe://mesh.test/orders/"),
    "no path": lambda: with_uris("spiffe://mesh.test"),
    "3000 bytes": lambda: with_uris("spiffe://mesh.test/" + "a" * 3000),
    "ca": lambda: forge.leaf(ROOT, is_ca=True),
    "may sign certificates": lambda: forge.leaf(
        ROOT, key_usage=forge.usage(digital_signature=True, key_cert_sign=True)
    ),
    "may sign revocation lists": lambda: forge.leaf(
        ROOT, key_usage=forge.usage(digital_signature=True, crl_sign=True)
    ),
    "no digital signature": lambda: forge.leaf(ROOT, key_usage=forge.usage()),
    "no key usage": lambda: forge.leaf(ROOT, key_usage=None),
    "key usage not critical": lambda: forge.leaf(ROOT, usage_critical=False),
    "no extended key usage": lambda: forge.leaf(ROOT, extended=None),
    "client only": lambda: forge.leaf(ROOT, extended=[ExtendedKeyUsageOID.CLIENT_AUTH]),
    "server only": lambda: forge.leaf(ROOT, extended=[ExtendedKeyUsageOID.SERVER_AUTH]),
    "code signing": lambda: forge.leaf(ROOT, extended=[ExtendedKeyUsageOID.CODE_SIGNING]),
    "rsa of 1024 bits": lambda: forge.leaf(ROOT, key=weak_key()),
    "p-521": lambda: forge.leaf(ROOT, key=ec.generate_private_key(ec.SECP521R1())),
    "secp256k1": lambda: forge.leaf(ROOT, key=ec.generate_private_key(ec.SECP256K1())),
}


@pytest.mark.parametrize("make", BAD_CERTIFICATES.values(), ids=BAD_CERTIFICATES.keys())
def test_a_certificate_that_names_no_workload_is_refused(make: Callable[[], forge.Party]) -> None:
    party = make()
    with pytest.raises(IdentityError) as refused:
        identify(party.pem)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())],
    ids=["p-256", "p-384"],
)
def test_a_workloads_certificate_tells_who_and_until_when(key: ec.EllipticCurvePrivateKey) -> None:
    party = forge.leaf(ROOT, key=key)
    identity = identify(party.pem)
    assert str(identity.spiffe_id) == forge.OURS
    assert (identity.not_before, identity.not_after) == (forge.NOW - forge.HOUR, forge.NOW + forge.HOUR)
    assert identity.serial == party.certificate.serial_number
    assert identity.certificate == party.certificate


def test_a_leaf_without_basic_constraints_is_no_ca_and_accepted() -> None:
    assert str(identify(forge.leaf(ROOT, is_ca=None).pem).spiffe_id) == forge.OURS


def test_rsa_of_2048_bits_is_accepted() -> None:
    assert (
        str(identify(forge.leaf(ROOT, key=rsa.generate_private_key(65537, 2048)).pem).spiffe_id) == forge.OURS
    )


def test_the_thumbprint_is_the_digest_of_the_der_as_rfc_8705_writes_it() -> None:
    party = forge.leaf(ROOT)
    expected = hashlib.sha256(party.certificate.public_bytes(Encoding.DER)).digest()
    found = identify(party.pem).x5t_s256
    assert base64.urlsafe_b64decode(found + "=") == expected
    assert len(found) == 43


def test_two_certificates_are_not_one() -> None:
    with pytest.raises(IdentityError, match="2 certificates"):
        identify(forge.leaf(ROOT).pem + ROOT.pem)


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(IdentityError):
        identify(garbage)
    with pytest.raises(IdentityError):
        identify(
            b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(garbage) + b"\n-----END CERTIFICATE-----\n"
        )


@given(st.data())
def test_a_damaged_certificate_is_refused_or_read_and_never_crashes(data: st.DataObject) -> None:
    der = bytearray(DAMAGED)
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(bytes(der)) + b"-----END CERTIFICATE-----\n"
    try:
        identity = identify(pem)
    except IdentityError:
        return
    assert SpiffeId.parse(str(identity.spiffe_id)) == identity.spiffe_id
    assert isinstance(identity.certificate, x509.Certificate)


DAMAGED = forge.leaf(ROOT).certificate.public_bytes(Encoding.DER)
