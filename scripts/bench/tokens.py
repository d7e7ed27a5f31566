"""Access tokens as the usual stack and Envoy check them: ES256, of one issuer, some 370 characters each."""

import base64
import json
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ISSUER = "https://issuer.bench.test"
AUDIENCE = "bench"
KID = "bench-1"
PUBLIC_KEY = "issuer.pem"
"""The issuer's key, in the folder of the run."""


def issue(folder: Path, count: int = 64) -> tuple[list[str], str]:
    """So many tokens of different subjects, and the JSON of the key set that verifies them."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    (folder / PUBLIC_KEY).write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    point = public.public_numbers()
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "alg": "ES256",
        "use": "sig",
        "kid": KID,
        "x": _text(point.x.to_bytes(32)),
        "y": _text(point.y.to_bytes(32)),
    }
    return [_signed(key, f"user-{number}") for number in range(count)], json.dumps({"keys": [jwk]})


def _signed(key: ec.EllipticCurvePrivateKey, subject: str) -> str:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "scope": "bench", "iat": now, "exp": now + 7200}
    said = ".".join(
        _text(json.dumps(part).encode()) for part in ({"alg": "ES256", "kid": KID, "typ": "at+jwt"}, claims)
    )
    r, s = utils.decode_dss_signature(key.sign(said.encode(), ec.ECDSA(SHA256())))
    return f"{said}.{_text(r.to_bytes(32) + s.to_bytes(32))}"


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
