"""An issuer of access tokens that every server of a test's mesh believes."""

import base64
import json
import math
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from hauberk.certs import keys
from hauberk.interceptors.issuers import LONGEST_LIFETIME_S, Issuer, KeyRing, KeySet
from hauberk.interceptors.token_check import Tokens

_KID = "test"
_OCTETS = 32
"""Of a coordinate and of half a signature, on P-256."""


class Login:
    """Signs what it is told (RFC 9068, ES256)."""

    def __init__(self, trust_domain: str, clock: Callable[[], float]) -> None:
        self.issuer = Issuer(
            name=f"https://login.{trust_domain}",
            audience=f"https://{trust_domain}",
            max_lifetime_s=LONGEST_LIFETIME_S,
        )
        self._clock = clock
        self._key = keys.generate()
        self._numbers = count(1)
        ring = KeyRing(self.issuer)
        ring.renew(KeySet.parse(json.dumps({"keys": [self._jwk()]}).encode(), "ES256"), math.inf)
        self.tokens = Tokens([ring], clock=clock)
        """What servers check tokens with."""

    def token(
        self, subject: str, *, lifetime_s: float, thumbprint: str | None, claims: Mapping[str, Any]
    ) -> str:
        """A good token, but for what `claims` say otherwise. `thumbprint`: bound to that certificate."""
        now = int(self._clock())
        said = {
            "iss": self.issuer.name,
            "aud": self.issuer.audience,
            "sub": subject,
            "jti": f"t-{next(self._numbers)}",
            "iat": now,
            "exp": now + int(lifetime_s),
            **({"cnf": {"x5t#S256": thumbprint}} if thumbprint is not None else {}),
            **claims,
        }
        header = {"alg": self.issuer.algorithm, "typ": self.issuer.typ, "kid": _KID}
        signed = f"{_base64url(json.dumps(header).encode())}.{_base64url(json.dumps(said).encode())}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64url(r.to_bytes(_OCTETS) + s.to_bytes(_OCTETS))}"

    def _jwk(self) -> dict[str, str]:
        numbers = self._key.public_key().public_numbers()
        x, y = (_base64url(number.to_bytes(_OCTETS)) for number in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": "P-256", "kid": _KID, "x": x, "y": y}


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
