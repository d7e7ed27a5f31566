"""Fetching a key set from another's machine: within a time, within a size, from nowhere else."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hauberk.interceptors.issuers import MAX_BYTES
from hauberk.jwks import NotFetched, check_url, fetch, read
from tests.face.issuing import Answer, Publisher, endless, no_http, plain, trickle, trickle_body

KEYS = b'{"keys": []}'


def test_what_is_published_is_fetched() -> None:
    with Publisher(plain(KEYS)) as publisher:
        assert fetch(publisher.url) == KEYS
        publisher.answer = plain(b" " * MAX_BYTES)
        assert len(fetch(publisher.url)) == MAX_BYTES


REFUSED: dict[str, tuple[Answer, str]] = {
    "not found": (plain(KEYS, 404), "it answers 404"),
    "an error": (plain(KEYS, 503), "it answers 503"),
    "nothing new": (plain(b"", 304), "it answers 304"),
    "elsewhere": (plain(KEYS, 302, Location="http://127.0.0.1:1/"), "it answers 302"),
    "too much": (plain(b" " * (MAX_BYTES + 1)), "it answers more than"),
    "endless": (endless, "it answers more than"),
    "no http": (no_http, "BadStatusLine"),
    "nothing": (lambda request: None, "RemoteDisconnected"),
    "headers that trickle": (trickle, "no whole answer within 0.4 s"),
    "a body that trickles": (trickle_body, "no whole answer within 0.4 s"),
    "silence": (lambda request: time.sleep(2), "no whole answer within 0.4 s"),
}


@pytest.mark.parametrize(("answer", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_anything_else_is_not_fetched(answer: Answer, why: str) -> None:
    with Publisher(answer) as publisher:
        began = time.monotonic()
        with pytest.raises(NotFetched, match=why):
            fetch(publisher.url, within_s=0.4)
        assert time.monotonic() - began < 3
        assert len(publisher.asked) == 1


def test_machine_that_is_not_there_is_not_fetched_from() -> None:
    with Publisher(plain(KEYS)) as publisher:
        url = publisher.url
    with pytest.raises(NotFetched, match="refused"):
        fetch(url)


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[[], Path]:
    """A certificate of 127.0.0.1 with its key, signed by nobody but itself."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    made = (
        x509.CertificateBuilder(
            name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1)
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "issuer.pem"
    file.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return lambda: file


def test_https_is_believed_only_with_a_certificate_that_is(
    certificate: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Publisher(plain(KEYS), certificate=certificate()) as publisher:
        with pytest.raises(NotFetched, match=r"SSLCertVerificationError|certificate"):
            fetch(publisher.url)
        assert not publisher.asked
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate()))
        assert fetch(publisher.url) == KEYS


@pytest.mark.parametrize(
    "url",
    [
        "http://login.test/keys",
        "http://10.0.0.1/keys",
        "http://127.0.0.1.evil.test/keys",
        "ftp://login.test/keys",
        "file:///etc/passwd",
        "https://",
        "https://user@login.test/keys",
        "https://login.test/keys#x",
        "https://login.test/a b",
        "https://login.test/\n",
        "https://login.test:99999/",
        "https://löl.test/",
    ],
)
def test_no_other_url_is_fetched(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|https|[Pp]ort"):
        check_url(url)


@pytest.mark.parametrize(
    "url", ["https://a.test/k?v=1", "http://127.0.0.1:1/k", "http://localhost/k", "http://[::1]:80/k"]
)
def test_https_and_this_machine_are(url: str) -> None:
    check_url(url)


def test_file_is_read_but_not_for_ever(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    with pytest.raises(NotFetched, match="cannot read"):
        read(file)
    file.write_bytes(b" " * 10 * MAX_BYTES)
    assert len(read(file)) == MAX_BYTES + 1
