"""Tokens of every kind, made here: good ones, and whatever else can be put together from three segments."""

import base64
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from hauberk.interceptors.issuers import Issuer, KeyRing, KeySet
from hauberk.interceptors.token_check import Tokens

ISSUER = "https://login.mesh.test"
OTHER_ISSUER = "https://elsewhere.mesh.test"
AUDIENCE = "spiffe://mesh.test/server"
KID, RSA_KID = "k-1", "r-1"

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
DROPPED: Any = object()
"""Says that a claim or header is to be left out."""


def b64(raw: bytes | str) -> str:
    raw = raw.encode() if isinstance(raw, str) else raw
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signature(key: PrivateKey, signed: str) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    size = (key.curve.key_size + 7) // 8
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def jwk(key: PrivateKey, kid: str, **more: Any) -> dict[str, Any]:
    """The public half as a JWK."""
    numbers: Any = key.public_key().public_numbers()
    if isinstance(key, rsa.RSAPrivateKey):
        n, e = (
            b64(number.to_bytes((number.bit_length() + 7) // 8, "big")) for number in (numbers.n, numbers.e)
        )
        return {"kty": "RSA", "n": n, "e": e, "kid": kid, **more}
    size = (key.curve.key_size + 7) // 8
    x, y = (b64(number.to_bytes(size, "big")) for number in (numbers.x, numbers.y))
    curve = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}[key.curve.name]
    return {"kty": "EC", "crv": curve, "x": x, "y": y, "kid": kid, **more}


def jwks(*keys: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def pem(key: PrivateKey) -> bytes:
    """The public half, as it is published."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


class Forge:
    """Two issuers, one of ES256 and one of RS256, both believed; and an attacker with keys of his own."""

    def __init__(self, *, audience: str = AUDIENCE) -> None:
        self.audience = audience
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.rsa_key = rsa.generate_private_key(65537, 2048)
        self.stranger = ec.generate_private_key(ec.SECP256R1())
        self.ring = KeyRing(Issuer(name=ISSUER, audience=audience))
        self.rsa_ring = KeyRing(Issuer(name=OTHER_ISSUER, audience=audience, algorithm="RS256", typ="JWT"))
        self.publish(jwk(self.key, KID))
        self.rsa_ring.renew(KeySet.parse(jwks(jwk(self.rsa_key, RSA_KID)), "RS256"), time.monotonic() + 3600)

    @property
    def now(self) -> int:
        """Seconds since 1970."""
        return int(time.time())

    def publish(self, *keys: Mapping[str, Any], for_s: float = 3600) -> None:
        """What the first issuer's keys are from now on."""
        self.ring.renew(KeySet.parse(jwks(*keys), "ES256"), time.monotonic() + for_s)

    def tokens(self, *, clock: Callable[[], float] = time.time, failures_per_s: float = 1e6) -> Tokens:
        """A check that does not ration failures: most tests make many."""
        return Tokens([self.ring, self.rsa_ring], clock=clock, failures_per_s=failures_per_s)

    def header(self, **changes: Any) -> dict[str, Any]:
        return changed({"alg": "ES256", "typ": "at+jwt", "kid": KID}, changes)

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = self.now
        good = {
            "iss": ISSUER,
            "aud": self.audience,
            "sub": "alice",
            "jti": "t-1",
            "iat": now,
            "exp": now + 600,
        }
        return changed(good, changes)

    def token(
        self, *, header: dict[str, Any] | None = None, key: PrivateKey | None = None, **claims: Any
    ) -> str:
        """A good token of the first issuer, but for what is said."""
        return self.raw(json.dumps(header or self.header()), json.dumps(self.claims(**claims)), key)

    def rsa_token(self, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A good token of the second issuer, but for what is said."""
        head = header or {"alg": "RS256", "typ": "JWT", "kid": RSA_KID}
        said = self.claims(**{"iss": OTHER_ISSUER, **claims})
        return self.raw(json.dumps(head), json.dumps(said), self.rsa_key)

    def raw(self, header: bytes | str, claims: bytes | str, key: PrivateKey | None = None) -> str:
        """A token of exactly these two texts, truly signed."""
        signed = f"{b64(header)}.{b64(claims)}"
        return f"{signed}.{b64(signature(key or self.key, signed))}"


def changed(good: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (good | changes).items() if value is not DROPPED}


def bound_to(thumbprint: str) -> dict[str, str]:
    """The `cnf` claim of a token that is bound to a certificate."""
    return {"x5t#S256": thumbprint}
