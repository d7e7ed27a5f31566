"""Which keys an issuer's tokens are verified with, and which never."""

import json
import math
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from hauberk.interceptors.issuers import MAX_BYTES, Issuer, KeyRing, KeySet, KeysRefused, is_roca
from hauberk.interceptors.strict_json import parse_object
from tests.interceptors.token_forge import b64, jwk, jwks

P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)
SHORT_RSA = rsa.generate_private_key(65537, 1024)
GOOD = jwk(P256, "k-1", use="sig", alg="ES256", key_ops=["verify"])
GOOD_RSA = jwk(RSA, "r-1", use="sig", alg="RS256")


def roca_modulus(bits: int = 2048) -> int:
    """A number of the shape that the weak generator's moduli have: a power of 65537 modulo small primes."""
    primes = [number for number in range(3, 168) if all(number % below for below in range(2, number))]
    product = math.prod(primes)
    found = pow(65537, 1234567, product)
    return found + (product << (bits - product.bit_length())) + (0 if found % 2 else product)


def modulus(number: int, exponent: int = 65537) -> dict[str, Any]:
    n, e = (b64(each.to_bytes((each.bit_length() + 7) // 8, "big")) for each in (number, exponent))
    return {"kty": "RSA", "kid": "r-2", "n": n, "e": e}


def changed(good: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (good | changes).items() if value is not None}


UNUSABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "without a name": ("ES256", changed(GOOD, kid=None)),
    "name a number": ("ES256", changed(GOOD, kid=7)),
    "name with a space": ("ES256", changed(GOOD, kid="k 1")),
    "name long": ("ES256", changed(GOOD, kid="k" * 129)),
    "for encryption": ("ES256", changed(GOOD, use="enc")),
    "for other operations": ("ES256", changed(GOOD, key_ops=["sign"])),
    "operations a text": ("ES256", changed(GOOD, key_ops="verify")),
    "of another algorithm": ("ES256", changed(GOOD, alg="ES384")),
    "of another curve": ("ES256", jwk(P384, "k-1")),
    "said to be of another curve": ("ES256", changed(GOOD, crv="P-384")),
    "off the curve": ("ES256", changed(GOOD, y=GOOD["x"])),
    "coordinate missing": ("ES256", changed(GOOD, y=None)),
    "coordinate a number": ("ES256", changed(GOOD, y=1)),
    "coordinate no base64": ("ES256", changed(GOOD, y="!!")),
    "rsa for es256": ("ES256", changed(GOOD_RSA, alg=None)),
    "ec for rs256": ("RS256", changed(GOOD, alg=None)),
    "symmetric": ("ES256", {"kty": "oct", "kid": "s-1", "k": b64(b"x" * 32)}),
    "symmetric in disguise": ("ES256", changed(GOOD, kty="oct", k=b64(b"x" * 32))),
    "rsa of 1024 bits": ("RS256", jwk(SHORT_RSA, "r-1")),
    "rsa of 8192 bits": ("RS256", modulus((1 << 8191) + 1)),
    "rsa exponent 3": ("RS256", modulus(RSA.public_key().public_numbers().n, 3)),
    "rsa exponent even": ("RS256", modulus(RSA.public_key().public_numbers().n, 65538)),
    "rsa exponent long": ("RS256", modulus(RSA.public_key().public_numbers().n, (1 << 64) + 1)),
    "roca": ("RS256", modulus(roca_modulus())),
}


@pytest.mark.parametrize(("algorithm", "key"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_key_that_is_weak_or_for_something_else_is_left_out(algorithm: str, key: dict[str, Any]) -> None:
    good = changed(GOOD_RSA if algorithm == "RS256" else GOOD, kid="good")
    found = KeySet.parse(jwks(key, good), algorithm)
    assert found.keys.keys() == {"good"}
    assert found.ignored == 1
    with pytest.raises(KeysRefused, match=f"none of its 1 keys can verify {algorithm}"):
        KeySet.parse(jwks(key), algorithm)


REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "no json": b"<html>",
    "a list": b"[]",
    "no keys": b"{}",
    "keys an object": b'{"keys": {}}',
    "a key that is a text": b'{"keys": ["x"]}',
    "no key at all": b'{"keys": []}',
    "a name twice": jwks(GOOD, jwk(ec.generate_private_key(ec.SECP256R1()), "k-1")),
    "a member twice": jwks(GOOD).replace(b'"kty"', b'"kty": "RSA", "kty"'),
    "a private key": jwks(GOOD, changed(GOOD, kid="k-2", d=b64(b"x" * 32))),
    "101 keys": jwks(*[changed(GOOD, kid=f"k-{number}") for number in range(101)]),
    "too large": jwks(GOOD) + b" " * MAX_BYTES,
    "bad utf-8": jwks(GOOD) + b"\xff",
    "deep": b'{"keys": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_key_set_is_refused_whole(raw: bytes) -> None:
    with pytest.raises(KeysRefused):
        KeySet.parse(raw, "ES256")


def test_key_set_of_both_kinds_gives_each_algorithm_its_own() -> None:
    both = jwks(GOOD, GOOD_RSA)
    assert KeySet.parse(both, "ES256").keys.keys() == {"k-1"}
    assert KeySet.parse(both, "RS256").keys.keys() == {"r-1"}


def test_mark_of_weak_rsa_keys_is_seen_and_not_in_others() -> None:
    assert is_roca(roca_modulus())
    assert not is_roca(RSA.public_key().public_numbers().n)
    assert not is_roca(SHORT_RSA.public_key().public_numbers().n)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "https://a b"),
        ("name", "https://ä"),
        ("audience", ""),
        ("audience", "a\n"),
        ("algorithm", "HS256"),
        ("algorithm", "none"),
        ("algorithm", ""),
        ("typ", ""),
        ("typ", "at jwt"),
        ("max_lifetime_s", 0),
        ("max_lifetime_s", 86401),
    ],
)
def test_issuer_is_valid_or_does_not_exist(field: str, value: Any) -> None:
    good: dict[str, Any] = {"name": "https://a.test", "audience": "us"}
    assert Issuer(**good).typ == "at+jwt"
    with pytest.raises(ValueError, match=field.removesuffix("_s")):
        Issuer(**(good | {field: value}))


def test_keys_are_wanted_once_until_they_are_asked_for() -> None:
    ring = KeyRing(Issuer(name="https://a.test", audience="us"))
    ring.renew(KeySet.parse(jwks(GOOD), "ES256"), math.inf)
    version = ring.wanted.version
    assert ring.find("k-1") is not None
    assert ring.wanted.version == version
    assert [ring.find(f"k-{number}") for number in range(2, 100)] == [None] * 98
    assert ring.wanted.version == version + 1
    ring.asked()
    assert ring.find("k-2") is None
    assert ring.wanted.version == version + 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_what_is_read_is_what_was_written(value: dict[str, Any]) -> None:
    try:
        found = parse_object(json.dumps(value).encode())
    except ValueError:
        assert _depth(value) > 8
        return
    assert _thawed(found) == value


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\ud80019eE+-. tfn', max_size=60).map(str.encode))
def test_reading_anything_gives_an_object_or_a_value_error(raw: bytes) -> None:
    try:
        found = parse_object(raw)
    except ValueError:
        return
    assert _thawed(found) == json.loads(raw)


def _thawed(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_thawed(each) for each in value]
    return {key: _thawed(each) for key, each in value.items()} if hasattr(value, "items") else value


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)
