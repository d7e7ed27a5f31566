"""Promises of certs/keys.py: a request proves a key and asks for nothing."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AttributeOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from hauberk.certs import keys
from hauberk.certs.errors import CsrRefused, KeyRefused

DER, PEM = serialization.Encoding.DER, serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
Builder = x509.CertificateSigningRequestBuilder
SUBJECT_PUBLIC_KEY = serialization.PublicFormat.SubjectPublicKeyInfo
KEY = keys.generate()


def bare(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, digest: hashes.SHA256 | None = None) -> bytes:
    return Builder().subject_name(x509.Name([])).sign(key, digest or hashes.SHA256()).public_bytes(DER)


def asking(builder: Builder) -> bytes:
    return builder.sign(KEY, hashes.SHA256()).public_bytes(DER)


EMPTY = Builder().subject_name(x509.Name([]))
ASKING = {
    "a uri name": EMPTY.add_extension(
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://mesh.test/admin")]),
        critical=False,
    ),
    "a dns name": EMPTY.add_extension(
        x509.SubjectAlternativeName([x509.DNSName("admin.mesh.test")]), critical=False
    ),
    "to be a ca": EMPTY.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True),
    "a common name": Builder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")])),
    "an attribute": EMPTY.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"let me in"),
}


def test_our_own_request_is_accepted_and_proves_our_key() -> None:
    assert keys.check_csr(keys.csr(KEY)) == KEY.public_key()


def test_request_of_an_rsa_key_is_accepted() -> None:
    key = rsa.generate_private_key(65537, 2048)
    assert keys.check_csr(bare(key)) == key.public_key()


@pytest.mark.parametrize("builder", ASKING.values(), ids=ASKING.keys())
def test_request_that_asks_for_anything_is_refused(builder: Builder) -> None:
    with pytest.raises(CsrRefused, match="asks for another name"):
        keys.check_csr(asking(builder))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(65537, 1024),
    ],
    ids=["p-384", "secp256k1", "rsa-1024"],
)
def test_request_of_a_weak_or_odd_key_is_refused(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    with pytest.raises(CsrRefused, match="neither ec p-256 nor rsa"):
        keys.check_csr(bare(key))


def test_request_of_an_ed25519_key_is_refused() -> None:
    request = EMPTY.sign(ed25519.Ed25519PrivateKey.generate(), None).public_bytes(DER)
    with pytest.raises(CsrRefused, match="neither ec p-256 nor rsa"):
        keys.check_csr(request)


def test_request_for_somebody_elses_key_is_refused() -> None:
    """The signature is the proof of possession (RFC 2986 section 3)."""
    request = bytearray(keys.csr(KEY))
    theirs = keys.generate().public_key().public_bytes(DER, SUBJECT_PUBLIC_KEY)
    ours = KEY.public_key().public_bytes(DER, SUBJECT_PUBLIC_KEY)
    with pytest.raises(CsrRefused, match="not signed by its own key"):
        keys.check_csr(bytes(request).replace(ours, theirs))


def test_request_with_a_damaged_signature_is_refused() -> None:
    request = bytearray(keys.csr(KEY))
    request[-1] ^= 1
    with pytest.raises(CsrRefused):
        keys.check_csr(bytes(request))


def test_request_larger_than_8_kib_is_refused_unread() -> None:
    with pytest.raises(CsrRefused, match="larger than 8192"):
        keys.check_csr(keys.csr(KEY) + bytes(8192))


def test_request_with_anything_behind_it_is_refused() -> None:
    with pytest.raises(CsrRefused, match="unreadable"):
        keys.check_csr(keys.csr(KEY) + b"\0")


@given(st.binary(max_size=300))
def test_garbage_is_no_request(garbage: bytes) -> None:
    with pytest.raises(CsrRefused):
        keys.check_csr(garbage)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_request_is_refused_or_unchanged(place: int, value: int) -> None:
    damaged = bytearray(REQUEST)
    damaged[place % len(damaged)] = value
    try:
        found = keys.check_csr(bytes(damaged))
    except CsrRefused:
        return
    assert found == KEY.public_key()


REQUEST = keys.csr(KEY)


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_key_round_trips(passphrase: bytes | None) -> None:
    pem = keys.to_pem(KEY, passphrase)
    assert (b"ENCRYPTED" in pem) == (passphrase is not None)
    assert keys.from_pem(pem, passphrase).private_numbers() == KEY.private_numbers()


@pytest.mark.parametrize(
    ("written_with", "read_with", "why"),
    [
        (b"one", b"two", "unreadable, or its passphrase is another"),
        (b"one", None, "no passphrase was given"),
        (None, b"one", "not encrypted"),
    ],
)
def test_key_with_another_passphrase_is_refused(
    written_with: bytes | None, read_with: bytes | None, why: str
) -> None:
    with pytest.raises(KeyRefused, match=why):
        keys.from_pem(keys.to_pem(KEY, written_with), read_with)


@pytest.mark.parametrize(
    "data", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n"]
)
def test_garbage_is_no_key(data: bytes) -> None:
    with pytest.raises(KeyRefused):
        keys.from_pem(data)


def test_key_of_another_kind_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    pem = key.private_bytes(PEM, PKCS8, serialization.NoEncryption())
    with pytest.raises(KeyRefused, match="not ec p-256"):
        keys.from_pem(pem)
