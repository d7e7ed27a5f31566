"""One access token, judged: the only way from a header to claims.

The profile is RFC 9068's, narrowed to what leaves no two readings (RFC 8725): three segments of base64url in
at most 4 KiB; a header of `alg`, `typ` and `kid` and nothing else, so no key or address that a token brings
is ever looked at; the one algorithm and `typ` of its issuer; `aud` one text, ours. joserfc verifies the
signature; alone it would accept much of what is refused here, and so would others, one of which the tests
ask too. Nobody else in this package may ask joserfc, which a test holds.

An expired token is expired at once. Only what is to come, `iat` and `nbf`, may be up to SKEW_S ahead of us:
then it is the issuer's clock that is early, and a token that was just issued would be refused.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from joserfc import jws

from hauberk.certs.errors import IdentityError
from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.errors import TokenRefused
from hauberk.interceptors.issuers import ALGORITHMS, KID, Issuer, KeyRing
from hauberk.interceptors.strict_json import parse_object

MAX_BYTES = 4096
SKEW_S = 30

_SEGMENTS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_HEADER = frozenset({"alg", "typ", "kid"})
_SUBJECT = re.compile(r"[A-Za-z0-9._@|:+=-]{1,255}", re.ASCII)
"""Letters as issuers use them: no space, no quote, no control, nothing that looks like something else."""
_TOKEN_ID = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_REGISTRIES = {
    algorithm: jws.JWSRegistry(algorithms=[algorithm], strict_check_header=True) for algorithm in ALGORITHMS
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token that was verified: for whom it was issued, by whom, and all it claims (read-only)."""

    issuer: str
    subject: str
    claims: Mapping[str, Any] = field(repr=False)
    expires_at: int
    """Seconds since 1970. At that second it is no good any more."""
    roles: frozenset[str]
    scopes: frozenset[str]
    thumbprint: str = field(repr=False)
    """Of the certificate it is bound to, `cnf` `x5t#S256` (RFC 8705 section 3.1); empty: to none."""


def verify(text: str, rings: Mapping[str, KeyRing], *, now: float) -> Token:
    """What `text` is, at `now` (seconds since 1970), by the issuers in `rings`, each under its `iss`.

    Raises TokenRefused and nothing else, whatever `text` is. A token that is bound to a certificate is not
    yet held against the caller's: that is done on each call.
    """
    try:
        return _verified(text, rings, now)
    except TokenRefused:
        raise
    except Exception:  # of the library, of the interpreter: no call may learn which, none may get by
        raise TokenRefused("TOKEN_MALFORMED") from None


def _verified(text: str, rings: Mapping[str, KeyRing], now: float) -> Token:
    if len(text) > MAX_BYTES:
        raise TokenRefused("TOKEN_TOO_LARGE")
    segments = _SEGMENTS.fullmatch(text)
    if segments is None:
        raise TokenRefused("TOKEN_MALFORMED")
    header, claims, _ = (_decoded(segment) for segment in segments.groups())
    kid = _check_header(head := parse_object(header))
    said = parse_object(claims)
    issuer = said.get("iss")
    ring = rings.get(issuer) if isinstance(issuer, str) else None
    if ring is None:
        raise TokenRefused("TOKEN_ISSUER_UNKNOWN")
    if head["alg"] != ring.issuer.algorithm:
        raise TokenRefused("TOKEN_ALGORITHM")
    if head.get("typ") != ring.issuer.typ:
        raise TokenRefused("TOKEN_TYPE")
    key = ring.find(kid)
    if key is None:
        raise TokenRefused("TOKEN_KEY_UNKNOWN")
    signed = jws.extract_compact(text.encode("ascii"))
    if not jws.validate_compact(signed, key, registry=_REGISTRIES[ring.issuer.algorithm]):
        raise TokenRefused("TOKEN_SIGNATURE")
    return _accepted(said, ring.issuer, now)


def _decoded(segment: str) -> bytes:
    """The bytes of a segment that is spelled as RFC 7515 section 2 spells them, and in no other way."""
    try:
        raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except (binascii.Error, ValueError):
        raise TokenRefused("TOKEN_MALFORMED") from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != segment.encode("ascii"):
        raise TokenRefused("TOKEN_MALFORMED")
    return raw


def _check_header(header: Mapping[str, Any]) -> str:
    """The `kid` of a header that holds nothing but three texts."""
    kid = header.get("kid")
    if not header.keys() <= _HEADER or not all(isinstance(value, str) for value in header.values()):
        raise TokenRefused("TOKEN_HEADER")
    if "alg" not in header or kid is None or not KID.fullmatch(kid):
        raise TokenRefused("TOKEN_HEADER")
    return str(kid)


def _accepted(said: Mapping[str, Any], issuer: Issuer, now: float) -> Token:
    """The token of these claims, whose signature holds."""
    if said.get("aud") != issuer.audience:  # a list is no text, were ours the only one in it
        raise TokenRefused("TOKEN_AUDIENCE")
    expires_at = _check_times(said, issuer, now)
    subject, token_id = said.get("sub"), said.get("jti")
    if not isinstance(subject, str) or not _is_subject(subject):
        raise TokenRefused("TOKEN_SUBJECT")
    if not isinstance(token_id, str) or not _TOKEN_ID.fullmatch(token_id):
        raise TokenRefused("TOKEN_ID")
    roles, scope = said.get("roles", ()), said.get("scope", "")
    return Token(
        issuer=issuer.name,
        subject=subject,
        claims=said,
        expires_at=expires_at,
        roles=_texts(roles) if isinstance(roles, tuple) else frozenset(),
        scopes=_texts(scope.split(" ")) if isinstance(scope, str) else frozenset(),
        thumbprint=_thumbprint(said.get("cnf")),
    )


def _check_times(said: Mapping[str, Any], issuer: Issuer, now: float) -> int:
    """The `exp` of a token that is good at `now`. Whole numbers all, though NumericDate (RFC 7519 section 2)
    may be others.
    """
    expires_at, issued_at, not_before = said.get("exp"), said.get("iat"), said.get("nbf", 0)
    if type(expires_at) is not int or type(issued_at) is not int or type(not_before) is not int:
        raise TokenRefused("TOKEN_TIMES")
    if not issued_at < expires_at <= issued_at + issuer.max_lifetime_s:
        raise TokenRefused("TOKEN_LIFETIME")
    if now >= expires_at:
        raise TokenRefused("TOKEN_EXPIRED")
    if issued_at > now + SKEW_S or not_before > now + SKEW_S:
        raise TokenRefused("TOKEN_NOT_YET_VALID")
    return expires_at


def _is_subject(text: str) -> bool:
    if _SUBJECT.fullmatch(text):
        return True
    try:
        SpiffeId.parse(text)
    except IdentityError:
        return False
    return True


def _texts(values: Any) -> frozenset[str]:
    return frozenset(value for value in values if isinstance(value, str) and value)


def _thumbprint(confirmation: Any) -> str:
    """Of `cnf`; empty where it confirms by other means or none, which binds to no certificate."""
    if not isinstance(confirmation, MappingProxyType):
        return ""
    found = confirmation.get("x5t#S256")
    return found if isinstance(found, str) and _THUMBPRINT.fullmatch(found) else ""
