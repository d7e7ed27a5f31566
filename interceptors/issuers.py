"""Whose access tokens are believed, and the keys they are signed with.

An issuer has one algorithm and one `typ`: a token that could be read in two ways is read in none (RFC 8725
sections 2.1, 3.1 and 3.11). Its keys come as a JWK set (RFC 7517) from elsewhere and change while we run: a
KeyRing holds those of the moment, until they are too old to be relied on.
"""

import base64
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc.jwk import ECKey, RSAKey

from hauberk.certs.watch import Watch
from hauberk.interceptors.strict_json import parse_object

ALGORITHMS = ("ES256", "RS256")
MAX_BYTES = 256 * 1024
"""Of a JWK set."""
MAX_KEYS = 100
MAX_LIFETIME_S = 15 * 60
"""Of a token, from `iat` to `exp`, where nothing else is said."""
LONGEST_LIFETIME_S = 24 * 3600

KID = re.compile(r"[\x21-\x7e]{1,128}")
"""Looked up in a dictionary and nowhere else, so whatever an issuer writes does no harm."""

_TYP = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+/-]{0,63}", re.ASCII)
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_RSA_BITS = range(2048, 4097)
_MEMBERS = {"ES256": ("kty", "crv", "x", "y"), "RS256": ("kty", "n", "e")}

Key = ECKey | RSAKey


class KeysRefused(Exception):
    """What should be a JWK set is none, or has no key that could be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """One issuer and what each of its tokens must be. Valid, or ValueError naming the field."""

    name: str
    """The `iss` of its tokens, compared letter by letter."""
    audience: str
    """The `aud` of its tokens, all of it: us."""
    algorithm: str = "ES256"
    typ: str = "at+jwt"
    """RFC 9068 section 2.1. No other kind of token of the same issuer then passes for one."""
    max_lifetime_s: int = MAX_LIFETIME_S

    def __post_init__(self) -> None:
        for field in ("name", "audience"):
            value = getattr(self, field)
            if not value or not value.isascii() or not value.isprintable() or " " in value:
                raise ValueError(f"{field} is no printable text without spaces: {value!r:.99}")
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm is none of {', '.join(ALGORITHMS)}: {self.algorithm!r:.40}")
        if not _TYP.fullmatch(self.typ):
            raise ValueError(f"typ is no media type: {self.typ!r:.70}")
        if not 1 <= self.max_lifetime_s <= LONGEST_LIFETIME_S:
            raise ValueError(f"max_lifetime is not 1 s to {LONGEST_LIFETIME_S} s: {self.max_lifetime_s}")


@dataclass(frozen=True, slots=True)
class KeySet:
    """Public keys by `kid`, at least one."""

    keys: Mapping[str, Key]
    members: Mapping[str, tuple[str, ...]]
    """What each key is made of: two sets of the same members are one."""
    ignored: int = 0
    """Keys that were left out: for encryption, of another algorithm, without a `kid`, or weak."""

    @classmethod
    def parse(cls, raw: bytes, algorithm: str) -> "KeySet":
        """The keys of a JWK set that verify `algorithm`. Raises KeysRefused.

        Refused whole: what is no JWK set, two keys of one `kid`, a set that holds a private key, which is no
        secret any more, and one without a usable key, which is rather a mistake: an issuer that withdraws its
        last key publishes another.
        """
        if len(raw) > MAX_BYTES:
            raise KeysRefused(f"more than {MAX_BYTES} bytes")
        try:
            listed = parse_object(raw).get("keys")
        except ValueError as error:
            raise KeysRefused(f"not a JWK set: {error}") from None
        if not isinstance(listed, tuple) or len(listed) > MAX_KEYS:
            raise KeysRefused(f'not a JWK set: "keys" is no list of at most {MAX_KEYS}')
        keys: dict[str, Key] = {}
        members: dict[str, tuple[str, ...]] = {}
        for jwk in listed:
            if not isinstance(jwk, Mapping):
                raise KeysRefused("not a JWK set: a key is no object")
            if "d" in jwk:
                raise KeysRefused("it holds a private key, which is no secret any more")
            kid = str(jwk.get("kid"))
            if kid in members:
                raise KeysRefused(f"two keys of one kid: {kid!r:.99}")
            if (key := _usable(jwk, algorithm)) is not None:
                keys[kid] = key
                members[kid] = tuple(jwk[name] for name in _MEMBERS[algorithm])
        if not keys:
            raise KeysRefused(f"none of its {len(listed)} keys can verify {algorithm}")
        return cls(MappingProxyType(keys), MappingProxyType(members), len(listed) - len(keys))


_NONE_YET = KeySet(MappingProxyType({}), MappingProxyType({}))


class KeyRing:
    """The keys of one issuer as they are known at this moment; none before the first `renew`.

    Read by calls in any thread; renewed by one task in the background.
    """

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.good_until = -math.inf
        """Monotonic seconds; later nobody may rely on these keys any more."""
        self.wanted = Watch(None)
        """Set once when a `kid` was not found, and not again before `asked`."""
        self._keys = Watch(_NONE_YET)
        self._asked = False

    def find(self, kid: str) -> Key | None:
        """The key of that name. Where there is none, the set is `wanted` anew: meanwhile the answer is no."""
        key = self._keys.value.keys.get(kid)
        if key is None and not self._asked:
            self._asked = True
            self.wanted.set(None)
        return key

    def asked(self) -> None:
        """The set is being fetched: what is not found from now on is a reason to fetch it again."""
        self._asked = False

    def renew(self, found: KeySet, good_until: float) -> None:
        """Put `found` in place of all keys before it. Subscribers hear of it only if it is another set."""
        self.good_until = good_until
        if found.members != self._keys.value.members:
            self._keys.set(found)

    def on_change(self, forget: Callable[[], None]) -> None:
        """Call `forget` whenever the keys have changed, in the thread that changed them."""
        self._keys.subscribe(lambda _: forget())


def _usable(jwk: Mapping[str, Any], algorithm: str) -> Key | None:
    """The key, if it is one for signatures of `algorithm`, has a name, and is strong enough."""
    kid, operations = jwk.get("kid"), jwk.get("key_ops", ("verify",))
    public = {name: jwk.get(name) for name in _MEMBERS[algorithm]}
    if not isinstance(kid, str) or not KID.fullmatch(kid):
        return None
    if jwk.get("use", "sig") != "sig" or jwk.get("alg", algorithm) != algorithm:
        return None
    if not isinstance(operations, tuple) or "verify" not in operations:
        return None
    if not all(isinstance(value, str) for value in public.values()):
        return None
    try:
        return _p256(public) if algorithm == "ES256" else _rsa(public)
    except ValueError:  # no base64url, no point of the curve, no modulus
        return None


def _p256(public: dict[str, Any]) -> Key | None:
    if public["kty"] != "EC" or public["crv"] != "P-256":
        return None
    numbers = ec.EllipticCurvePublicNumbers(_number(public["x"]), _number(public["y"]), ec.SECP256R1())
    return ECKey.import_key(numbers.public_key())


def _rsa(public: dict[str, Any]) -> Key | None:
    if public["kty"] != "RSA":
        return None
    modulus, exponent = _number(public["n"]), _number(public["e"])
    if modulus.bit_length() not in _RSA_BITS or not 65537 <= exponent < 2**32 or is_roca(modulus):
        return None
    return RSAKey.import_key(rsa.RSAPublicNumbers(exponent, modulus).public_key())


def _number(text: str) -> int:
    """Base64url without padding (RFC 7518 section 2, "Base64urlUInt"); ValueError if it is none."""
    if not _BASE64URL.fullmatch(text):
        raise ValueError("not base64url")
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def is_roca(modulus: int) -> bool:
    """Whether it bears the mark of keys whose primes can be found (CVE-2017-15361).

    Nemec et al., "The Return of Coppersmith's Attack" (2017), section 2: such primes are powers of 65537
    modulo many small primes, and so is their product. One other modulus in about 2**28 is taken for such.
    """
    return all(modulus % prime in powers for prime, powers in _POWERS.items())


def _powers(prime: int) -> frozenset[int]:
    return frozenset(pow(65537, exponent, prime) for exponent in range(prime))


_POWERS = {
    prime: _powers(prime)
    for prime in (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)
}
