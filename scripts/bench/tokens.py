"""Access tokens as all check them: ES256, of one issuer, bound to one certificate."""

import base64
import json
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from scripts.bench.contract import ROLE, SCOPE

ISSUER = "https://issuer.bench.test"
AUDIENCE = "bench"
KID = "bench-1"
LIFETIME_S = 7200
PUBLIC_KEY = "issuer.pem"
"""The issuer's key, in the folder of the run."""
ISSUERS = "issuers.toml"
"""The issuer as hauberk is told of it, in the folder of the run."""
_JWKS = "jwks.json"


@dataclass(slots=True, kw_only=True)
class Mint:
    """Issues tokens to the holder of one certificate."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    thumbprint: str
    jwks: str
    """The JSON of the key set that verifies them."""
    _made: "count[int]" = field(default_factory=count)

    @classmethod
    def create(cls, folder: Path, holder: x509.Certificate) -> Self:
        """A new issuer, whose key whoever serves finds in `folder`."""
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key()
        (folder / PUBLIC_KEY).write_bytes(
            public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        point = public.public_numbers()
        jwk = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KID}
        jwk |= {"x": _text(point.x.to_bytes(32)), "y": _text(point.y.to_bytes(32))}
        jwks = json.dumps({"keys": [jwk]})
        (folder / _JWKS).write_text(jwks, "ascii")
        (folder / ISSUERS).write_text(
            f'[tokens.bench]\nissuer = "{ISSUER}"\njwks = "{_JWKS}"\naudience = "{AUDIENCE}"\n'
            f"max_lifetime_seconds = {LIFETIME_S}\n",
            "ascii",
        )
        return cls(key=key, thumbprint=_text(holder.fingerprint(SHA256())), jwks=jwks)

    def token(self, **other: Any) -> str:
        """One more token, of a subject of its own; `other` claims replace what it would say."""
        number, now = next(self._made), int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": f"user-{number}",
            "jti": f"{number:08x}",
            "iat": now,
            "exp": now + LIFETIME_S,
            "scope": SCOPE,
            "roles": [ROLE],
            "cnf": {"x5t#S256": self.thumbprint},
            **other,
        }
        said = ".".join(
            _text(json.dumps(part).encode())
            for part in ({"alg": "ES256", "kid": KID, "typ": "at+jwt"}, claims)
        )
        r, s = utils.decode_dss_signature(self.key.sign(said.encode(), ec.ECDSA(SHA256())))
        return f"{said}.{_text(r.to_bytes(32) + s.to_bytes(32))}"


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
