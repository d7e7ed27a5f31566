"""Every attack on a token is refused with one message that tells nothing; a second library is asked too."""

import time
from typing import Any

import grpc
import jwt
import pytest
from grpc.aio import AioRpcError
from hypothesis import given, settings
from hypothesis import strategies as st

from hauberk.interceptors.demands import TokenRule
from hauberk.interceptors.errors import TokenRefused
from hauberk.interceptors.token import MAX_BYTES, Token, verify
from tests.interceptors.stage import Shape, Stage, call, info, policy
from tests.interceptors.stage import echo as echoing
from tests.interceptors.token_attacks import ATTACKS, NOT_SENDABLE, Attack
from tests.interceptors.token_forge import AUDIENCE, ISSUER, KID, OTHER_ISSUER, RSA_KID, Forge, jwk

FORGE = Forge()
EVERY = ATTACKS | NOT_SENDABLE
RINGS = {ring.issuer.name: ring for ring in (FORGE.ring, FORGE.rsa_ring)}

ACCEPTED_BY_PYJWT = {
    "jku present": "it ignores what it does not know in a header",
    "x5u present": "it ignores what it does not know in a header",
    "zip present": "it ignores what it does not know in a header",
    "cty present": "it ignores what it does not know in a header",
    "typ dpop+jwt": "it does not look at typ: one kind of token passes for another",
    "typ logout+jwt": "it does not look at typ",
    "typ secevent+jwt": "it does not look at typ",
    "typ JWT": "it does not look at typ",
    "typ JOSE": "it does not look at typ",
    "typ in capitals": "it does not look at typ",
    "typ missing": "it does not look at typ",
    "typ null": "it does not look at typ",
    "padding in the header": "RFC 7515 section 2: base64url without padding",
    "duplicate alg": "the last of two wins",
    "duplicate kid": "the last of two wins",
    "exp a text": "it makes a number of it",
    "expired a second ago": "its one leeway, meant for iat and nbf, prolongs a token too",
    "expires now": "its one leeway prolongs a token too",
    "exp a fraction": "NumericDate may be one (RFC 7519); no issuer needs it",
    "exp in the year 2100": "it has no bound for a token's life",
    "exp an hour from now": "it has no bound for a token's life",
    "exp 10^400": "it has no bound for a token's life",
    "exp before iat": "it does not compare them",
    "iat a year ago": "it has no bound for a token's life",
    "iat a text": "it makes a number of it",
    "nbf a text": "it makes a number of it",
    "sub empty": "it takes any text for a subject",
    "sub long": "it takes any text for a subject",
    "sub with NUL": "it takes any text for a subject",
    "sub with a line break": "it takes any text for a subject",
    "sub a look-alike": "it takes any text for a subject",
    "sub half a surrogate pair": "it takes any text for a subject",
    "sub no spiffe id": "it takes any text for a subject",
    "jti empty": "it takes any text for an id",
    "duplicate sub": "the last of two wins: the caller is somebody else than the first says",
    "duplicate exp": "the last of two wins",
    "duplicate role deep inside": "the last of two wins",
    "payload with NaN": "Python's json reads what is no JSON",
    "payload with 1e400": "Python's json makes an infinity of it",
    "payload 20 deep": "it has no bound of depth but the interpreter's",
    "payload 700 deep": "it has no bound of depth but the interpreter's",
    "payload utf-16": "Python's json guesses the encoding",
    "payload with a byte order mark": "Python's json guesses the encoding",
    "header with a byte order mark": "Python's json guesses the encoding",
    "5 KB": "it has no bound of size",
    "1 MB": "it has no bound of size",
}
"""Where the two disagree, and why: always we refuse what it accepts."""


def refused(text: str) -> TokenRefused:
    with pytest.raises(TokenRefused) as caught:
        verify(text, RINGS, now=time.time())
    return caught.value


def accepted_by_pyjwt(text: str) -> bool:
    """Whether PyJWT, told all that it can be told, takes the token for one of either issuer."""
    keys = {
        ISSUER: ("ES256", {KID: jwk(FORGE.key, KID)}),
        OTHER_ISSUER: ("RS256", {RSA_KID: jwk(FORGE.rsa_key, RSA_KID)}),
    }
    return any(_accepted(text, issuer, *of_issuer) for issuer, of_issuer in keys.items())


def _accepted(text: str, issuer: str, algorithm: str, keys: dict[str, dict[str, Any]]) -> bool:
    try:
        kid = jwt.get_unverified_header(text).get("kid")
        jwt.decode(
            text,
            jwt.PyJWK(keys[str(kid)], algorithm),
            algorithms=[algorithm],
            audience=AUDIENCE,
            issuer=issuer,
            leeway=30,
            options={
                "require": ["iss", "aud", "sub", "jti", "iat", "exp"],
                "strict_aud": True,
                "verify_sub": True,
                "verify_jti": True,
            },
        )
    except (jwt.PyJWTError, KeyError, RecursionError, ValueError, TypeError, OverflowError):
        return False
    return True


@pytest.mark.parametrize("attack", EVERY.values(), ids=EVERY.keys())
def test_attack_is_refused_by_the_wrapper(attack: Attack) -> None:
    refusal = refused(attack(FORGE))
    assert (refusal.message, refusal.reason, dict(refusal.metadata)) == (
        "access token refused",
        "TOKEN_REFUSED",
        {},
    )


async def test_every_attack_is_refused_by_a_server_with_one_message(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Over mTLS; nothing but the trace, which is the call's own, tells one from another."""
    caplog.set_level("DEBUG")
    ran: list[Any] = []
    forge = Forge()
    said = policy("Echo", Shape.UNARY_UNARY, "*", token=TokenRule(bound=False))
    await stage.serve(
        {"Echo": (Shape.UNARY_UNARY, echoing(Shape.UNARY_UNARY, ran), said)}, tokens=forge.tokens()
    )
    channel = stage.channel(options=[("grpc.max_metadata_size", 1 << 16)])
    for name, attack in ATTACKS.items():
        with pytest.raises(AioRpcError) as caught:
            await call(
                channel,
                Shape.UNARY_UNARY,
                metadata=(("authorization", f"Bearer {attack(forge)}"),),
            )
        told = info(caught.value)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, name
        assert (caught.value.details(), told.reason) == ("access token refused", "TOKEN_REFUSED"), name
        assert told.metadata.keys() == {"trace_id"}, name
    assert not ran
    assert "eyJ" not in stage.log.getvalue() + caplog.text, "a token begins so"
    records = await stage.records(len(ATTACKS))
    assert {record["grpc.status"] for record in records} == {"UNAUTHENTICATED"}
    reasons = dict(zip(ATTACKS, (record["error.reason"] for record in records), strict=True))
    assert reasons["expires now"] == "TOKEN_EXPIRED"
    assert reasons["signed by the attacker"] == "TOKEN_SIGNATURE"
    assert reasons["aud a list with ours"] == "TOKEN_AUDIENCE"
    assert reasons["kid unknown"] == "TOKEN_KEY_UNKNOWN"
    assert len(set(reasons.values())) > 10
    for token in (forge.token(), forge.rsa_token()):
        metadata = (("authorization", f"Bearer {token}"),)
        assert await call(channel, Shape.UNARY_UNARY, metadata=metadata) == [b"hello"]


def test_second_library_disagrees_only_where_we_know_why() -> None:
    accepted = {name for name, attack in EVERY.items() if accepted_by_pyjwt(attack(FORGE))}
    assert accepted == ACCEPTED_BY_PYJWT.keys()


GOOD: dict[str, Attack] = {
    "es256": lambda forge: forge.token(),
    "rs256": lambda forge: forge.rsa_token(),
    "claims of every kind": lambda forge: forge.token(a=[1, {"b": None}], c=1.5, d="ä", e=True, nbf=1),
    "near its end": lambda forge: forge.token(exp=forge.now + 60, iat=forge.now - 800),
    "from a clock that is early": lambda forge: forge.token(iat=forge.now + 20, nbf=forge.now + 20),
    "of a workload": lambda forge: forge.token(sub="spiffe://mesh.test/prod/orders"),
    "of a user as some issuers write it": lambda forge: forge.token(sub="auth0|5f7c8ec7c33c6c004bbafe82"),
    "header in another order": lambda forge: forge.token(
        header={"kid": KID, "typ": "at+jwt", "alg": "ES256"}
    ),
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD.keys())
def test_good_token_is_accepted_by_both(make: Attack) -> None:
    text = make(FORGE)
    token = verify(text, RINGS, now=time.time())
    assert token.issuer in RINGS
    assert accepted_by_pyjwt(text)


TIMES: dict[str, tuple[dict[str, int], float, str | None]] = {
    "just before its end": ({}, 1599.999, None),
    "at its end": ({}, 1600, "TOKEN_EXPIRED"),
    "issued 30 s ahead": ({}, 970, None),
    "issued more than 30 s ahead": ({}, 969.999, "TOKEN_NOT_YET_VALID"),
    "good from 30 s ahead": ({"nbf": 1130}, 1100, None),
    "good from more than 30 s ahead": ({"nbf": 1131}, 1100, "TOKEN_NOT_YET_VALID"),
    "life of 15 minutes": ({"exp": 1900}, 1100, None),
    "life of a second more": ({"exp": 1901}, 1100, "TOKEN_LIFETIME"),
    "life of nothing": ({"exp": 1000}, 990, "TOKEN_LIFETIME"),
}


@pytest.mark.parametrize(("claims", "now", "found"), TIMES.values(), ids=TIMES.keys())
def test_token_is_good_from_then_until_then(claims: dict[str, int], now: float, found: str | None) -> None:
    times: dict[str, Any] = {"iat": 1000, "exp": 1600, **claims}
    text = FORGE.token(**times)
    if found is None:
        assert verify(text, RINGS, now=now).subject == "alice"
    else:
        with pytest.raises(TokenRefused) as caught:
            verify(text, RINGS, now=now)
        assert caught.value.found == found


def test_what_is_claimed_cannot_be_changed() -> None:
    token = verify(FORGE.token(realm_access={"roles": ["a"]}), RINGS, now=time.time())
    assert token.claims["realm_access"]["roles"] == ("a",)
    with pytest.raises(TypeError):
        token.claims["sub"] = "admin"  # type: ignore[index]
    with pytest.raises(TypeError):
        token.claims["realm_access"]["roles"] = ("admin",)


def test_token_shows_nothing_of_its_claims() -> None:
    token = verify(FORGE.token(email="alice@secret.test"), RINGS, now=time.time())
    assert "secret" not in repr(token)


def test_size_is_looked_at_before_anything_else() -> None:
    assert refused("é" * (MAX_BYTES + 1)).found == "TOKEN_TOO_LARGE"
    assert refused("é" * MAX_BYTES).found == "TOKEN_MALFORMED"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x5t#S256", "a", "sub"]) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
names = st.sampled_from(["iss", "aud", "sub", "jti", "iat", "exp", "nbf", "cnf", "roles", "scope", "x"])
changes = st.dictionaries(names, json_values, max_size=3)
header_changes = st.dictionaries(
    st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk"]), json_values, max_size=2
)


def judged(text: str) -> None:
    """The token is accepted or refused, and nothing else happens; what is accepted, PyJWT accepts too."""
    try:
        token = verify(text, RINGS, now=time.time())
    except TokenRefused:
        return
    assert isinstance(token, Token)
    assert isinstance(hash(token.subject), int)
    assert accepted_by_pyjwt(text)


@settings(max_examples=150, deadline=None)
@given(changes, header_changes)
def test_no_claims_or_headers_make_anything_but_a_token_or_the_refusal(
    said: dict[str, Any], head: dict[str, Any]
) -> None:
    judged(FORGE.token(header=FORGE.header(**head), **said))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=400))
def test_no_bytes_make_anything_but_a_token_or_the_refusal(header: bytes, claims: bytes) -> None:
    judged(FORGE.raw(header, claims))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | st.from_regex(r"[A-Za-z0-9_\-.=]{0,300}", fullmatch=True))
def test_no_text_makes_anything_but_the_refusal(text: str) -> None:
    refused(text)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_single_changed_letter_makes_a_token(data: st.DataObject) -> None:
    good = FORGE.token()
    at = data.draw(st.integers(0, len(good) - 1))
    letter = data.draw(st.characters(codec="ascii").filter(lambda other: other != good[at]))
    refused(good[:at] + letter + good[at + 1 :])
