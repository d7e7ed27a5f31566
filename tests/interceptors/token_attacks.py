"""Every attack on a token that we know of, each as the token it would come with.

Each is refused for one reason of its own alone: all else about it is good, and signed with the issuer's key
unless the attack is the signature.
"""

import hmac
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from tests.interceptors.token_forge import (
    AUDIENCE,
    DROPPED,
    ISSUER,
    KID,
    RSA_KID,
    Forge,
    b64,
    jwk,
    pem,
    signature,
)

Attack = Callable[[Forge], str]
YEAR = 366 * 86400


def head(**changes: Any) -> Attack:
    return lambda forge: forge.token(header=forge.header(**changes))


def said(**changes: Any) -> Attack:
    return lambda forge: forge.token(**changes)


def later(**seconds: int) -> Attack:
    """Times in seconds from now."""

    def make(forge: Forge) -> str:
        now = forge.now
        times: dict[str, Any] = {name: now + after for name, after in seconds.items()}
        return forge.token(**times)

    return make


def claims_text(edit: Callable[[str], str | bytes]) -> Attack:
    """The claims as another text than a library would write."""
    return lambda forge: forge.raw(json.dumps(forge.header()), edit(json.dumps(forge.claims())))


def header_text(edit: Callable[[str], str | bytes]) -> Attack:
    return lambda forge: forge.raw(edit(json.dumps(forge.header())), json.dumps(forge.claims()))


def whole(edit: Callable[[str], str]) -> Attack:
    """A good token, changed after it was signed."""
    return lambda forge: edit(forge.token())


def unsigned(algorithm: Any) -> Attack:
    def make(forge: Forge) -> str:
        return f"{b64(json.dumps(forge.header(alg=algorithm)))}.{b64(json.dumps(forge.claims()))}."

    return make


def hmac_with_public_key(forge: Forge) -> str:
    signed = f"{b64(json.dumps(forge.header(alg='HS256')))}.{b64(json.dumps(forge.claims()))}"
    return f"{signed}.{b64(hmac.digest(pem(forge.key), signed.encode(), sha256))}"


def embedded_key(forge: Forge) -> str:
    return forge.token(header=forge.header(jwk=jwk(forge.stranger, KID)), key=forge.stranger)


def address_of_key(name: str) -> Attack:
    return lambda forge: forge.token(
        header=forge.header(**{name: "http://127.0.0.1:9/k"}), key=forge.stranger
    )


def of_the_other_issuers_key(forge: Forge) -> str:
    """Signed by an issuer that is believed, in the name of another one that is too."""
    return forge.rsa_token(iss=ISSUER)


def under_the_other_issuers_algorithm(forge: Forge) -> str:
    return forge.rsa_token(header={"alg": "RS256", "typ": "at+jwt", "kid": RSA_KID}, iss=ISSUER)


def with_signature(edit: Callable[[Forge, str, bytes], str]) -> Attack:
    def make(forge: Forge) -> str:
        signed, _, _ = forge.token().rpartition(".")
        return f"{signed}.{edit(forge, signed, signature(forge.key, signed))}"

    return make


def der_signature(forge: Forge, signed: str, _: bytes) -> str:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return b64(forge.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))


def other_last_letter(text: str) -> str:
    """The same bytes in another spelling: the last letter's low bits stand for nothing."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + letters[letters.index(text[-1]) + 1]


def loose_header_segment(forge: Forge) -> str:
    """The header's last letter in another spelling, and signed so."""
    spelled = next(text for pad in range(3) if len(text := b64(json.dumps(forge.header()) + " " * pad)) % 4)
    signed = f"{other_last_letter(spelled)}.{b64(json.dumps(forge.claims()))}"
    return f"{signed}.{b64(signature(forge.key, signed))}"


def padded_segments(forge: Forge) -> str:
    spelled = next(text for pad in range(3) if len(text := b64(json.dumps(forge.header()) + " " * pad)) % 4)
    signed = f"{spelled}{'=' * (-len(spelled) % 4)}.{b64(json.dumps(forge.claims()))}"
    return f"{signed}.{b64(signature(forge.key, signed))}"


def nested(forge: Forge) -> str:
    return forge.raw(json.dumps(forge.header()), forge.token())


def twice(key: str, value: Any) -> Callable[[str], str]:
    """The same name once more, at the end, where most readers take it from."""
    return lambda text: f"{text[:-1]}, {json.dumps(key)}: {json.dumps(value)}}}"


def number(claim: str, spelled: str) -> Attack:
    """A claim whose number is spelled so, as no library would."""

    def make(forge: Forge) -> str:
        claims = json.dumps(forge.claims(**{claim: "HERE"})).replace('"HERE"', spelled)
        return forge.raw(json.dumps(forge.header()), claims)

    return make


def json_form(forge: Forge) -> str:
    protected, payload, signed = forge.token().split(".")
    return json.dumps({"protected": protected, "payload": payload, "signature": signed})


ALGORITHM: dict[str, Attack] = {
    **{f"alg {name}": unsigned(name) for name in ("none", "None", "NONE", "nOnE")},
    **{f"alg {name}, signed": head(alg=name) for name in ("none", "es256", "ES384", "HS256", "RS256", "")},
    "alg missing": head(alg=DROPPED),
    "alg null": head(alg=None),
    "alg list": head(alg=["ES256"]),
    "hmac keyed with the public key": hmac_with_public_key,
    "another issuer's key": of_the_other_issuers_key,
    "another issuer's algorithm": under_the_other_issuers_algorithm,
}
HEADER: dict[str, Attack] = {
    "jwk of the attacker": embedded_key,
    **{f"{name} of the attacker": address_of_key(name) for name in ("jku", "x5u")},
    **{f"{name} present": head(**{name: "http://127.0.0.1:9/k"}) for name in ("jku", "x5u")},
    "zip present": head(zip="DEF"),
    "cty present": head(cty="JWT"),
    "kid a path": head(kid="../../../../dev/null"),
    "kid sql": head(kid="' OR 1=1 --"),
    "kid long": head(kid="k" * 1000),
    "kid a number": head(kid=1),
    "kid missing": head(kid=DROPPED),
    "kid null": head(kid=None),
    "kid empty": head(kid=""),
    "kid unknown": head(kid="k-2"),
    "kid of another issuer": head(kid=RSA_KID),
    **{f"typ {name}": head(typ=name) for name in ("dpop+jwt", "logout+jwt", "secevent+jwt", "JWT", "JOSE")},
    "typ in capitals": head(typ="AT+JWT"),
    "typ missing": head(typ=DROPPED),
    "typ null": head(typ=None),
    "crit unknown": head(crit=["x"], x=1),
    "crit absent": head(crit=["exp"]),
    "crit empty": head(crit=[]),
    "crit lists alg": head(crit=["alg"]),
    "crit null": head(crit=None),
    "b64 false": head(b64=False, crit=["b64"]),
    "duplicate alg": header_text(twice("alg", "ES256")),
    "duplicate kid": header_text(twice("kid", KID)),
    "header a list": header_text(lambda text: f"[{text}]"),
    "header garbage": header_text(lambda text: b"\xff\xfe" + text.encode()),
    "header with a byte order mark": header_text(lambda text: b"\xef\xbb\xbf" + text.encode()),
}
TIMES: dict[str, Attack] = {
    "expired a second ago": later(iat=-60, exp=-1),
    "expires now": later(iat=-60, exp=0),
    "exp missing": said(exp=DROPPED),
    "exp null": said(exp=None),
    "exp a list": said(exp=[9999999999]),
    "exp a text": said(exp="9999999999"),
    "exp a boolean": said(exp=True),
    "exp in the year 2100": later(exp=75 * YEAR),
    "exp an hour from now": later(exp=3600),
    "exp 1e400": number("exp", "1e400"),
    "exp 10^400": number("exp", "1" + "0" * 400),
    **{f"exp {spelled}": number("exp", spelled) for spelled in ("Infinity", "-Infinity", "NaN")},
    "exp a fraction": lambda forge: number("exp", f"{forge.now + 600}.0")(forge),
    "exp before iat": later(iat=20, exp=10),
    "iat a year ago": later(iat=-YEAR),
    "iat missing": said(iat=DROPPED),
    "iat a text": said(iat="1"),
    "iat in a minute": later(iat=60),
    "nbf in a minute": later(nbf=60),
    "nbf a text": said(nbf="0"),
    "nbf null": said(nbf=None),
}
CLAIMS: dict[str, Attack] = {
    "aud another": said(aud="spiffe://mesh.test/orders"),
    "aud missing": said(aud=DROPPED),
    "aud empty": said(aud=""),
    "aud an object": said(aud={AUDIENCE: True}),
    "aud a part of ours": said(aud=AUDIENCE[:-1]),
    "aud longer than ours": said(aud=AUDIENCE + "/"),
    "aud in other capitals": said(aud=AUDIENCE.replace("server", "Server")),
    "aud a list of ours": said(aud=[AUDIENCE]),
    "aud a list with ours": said(aud=["spiffe://mesh.test/orders", AUDIENCE]),
    "iss another": said(iss="https://evil.test"),
    "iss missing": said(iss=DROPPED),
    "iss a list": said(iss=[ISSUER]),
    "iss an object": said(iss={ISSUER: True}),
    "iss with a slash": said(iss=ISSUER + "/"),
    "iss in other capitals": said(iss=ISSUER.replace("login", "Login")),
    "sub missing": said(sub=DROPPED),
    "sub a number": said(sub=1),
    "sub a list": said(sub=["alice"]),
    "sub empty": said(sub=""),
    "sub long": said(sub="a" * 256),
    "sub with NUL": said(sub="alice\0admin"),
    "sub with a line break": said(sub="alice\nadmin"),
    "sub a look-alike": said(sub="аlice"),
    "sub half a surrogate pair": claims_text(lambda text: text.replace("alice", "\\ud800")),
    "sub no spiffe id": said(sub="spiffe://mesh.test/../admin"),
    "jti missing": said(jti=DROPPED),
    "jti a number": said(jti=1),
    "jti empty": said(jti=""),
    "duplicate sub": claims_text(twice("sub", "admin")),
    "duplicate exp": claims_text(twice("exp", 9999999999)),
    "duplicate role deep inside": claims_text(lambda text: f'{text[:-1]}, "x": {{"a": 1, "a": 2}}}}'),
}
PAYLOAD: dict[str, Attack] = {
    "payload a list": claims_text(lambda text: f"[{text}]"),
    "payload a text": claims_text(json.dumps),
    "payload null": claims_text(lambda text: "null"),
    "payload empty object": claims_text(lambda text: "{}"),
    "payload a token": nested,
    "payload garbage": claims_text(lambda text: b"\0\1\2\3"),
    "payload bad utf-8": claims_text(lambda text: text.encode() + b"\xff"),
    "payload utf-16": claims_text(lambda text: text.encode("utf-16")),
    "payload with a byte order mark": claims_text(lambda text: b"\xef\xbb\xbf" + text.encode()),
    "payload with more behind it": claims_text(lambda text: text + "{}"),
    "payload 20 deep": claims_text(lambda text: f'{text[:-1]}, "x": {"[" * 20}{"]" * 20}}}'),
    "payload 700 deep": claims_text(lambda text: f'{text[:-1]}, "x": {"[" * 700}{"]" * 700}}}'),
    "payload 1300 deep": claims_text(lambda text: f'{text[:-1]}, "x": {"[" * 1300}{"]" * 1300}}}'),
    "payload with 1e400": claims_text(lambda text: f'{text[:-1]}, "x": 1e400}}'),
    "payload with NaN": claims_text(lambda text: f'{text[:-1]}, "x": [NaN]}}'),
    "5 KB": said(x="x" * 3700),
}
SIGNATURE: dict[str, Attack] = {
    "signed by the attacker": lambda forge: forge.token(key=forge.stranger),
    "signature empty": with_signature(lambda *_: ""),
    "signature zero": with_signature(lambda *_: b64(bytes(64))),
    "signature der": with_signature(der_signature),
    "signature one byte longer": with_signature(lambda _, __, raw: b64(raw + b"\0")),
    "signature one byte shorter": with_signature(lambda _, __, raw: b64(raw[:-1])),
    "signature with wide halves": with_signature(lambda _, __, raw: b64(b"\0" + raw[:32] + b"\0" + raw[32:])),
    "signature of other claims": with_signature(lambda forge, *_: forge.token(sub="bob").rpartition(".")[2]),
    "signature spelled otherwise": whole(other_last_letter),
    "claims changed": whole(
        lambda text: ".".join((text.split(".")[0], b64(b'{"sub": "admin"}'), text.split(".")[2]))
    ),
}
FORM: dict[str, Attack] = {
    "empty": lambda forge: "",
    "one letter": lambda forge: "x",
    "two segments": whole(lambda text: text.rpartition(".")[0]),
    "four segments": whole(lambda text: text + ".x"),
    "five segments, as of a jwe": whole(lambda text: text + ".x.x"),
    "json form": json_form,
    "padding at the end": whole(lambda text: text + "="),
    "padding in the header": padded_segments,
    "header spelled loosely": loose_header_segment,
    "space inside": whole(lambda text: text.replace(".", ". ")),
    "space at the end": whole(lambda text: text + " ."),
    "other base64 letters": whole(lambda text: text + "+/"),
    "comma and another": whole(lambda text: f"{text}, {text}"),
}
ATTACKS: dict[str, Attack] = ALGORITHM | HEADER | TIMES | CLAIMS | PAYLOAD | SIGNATURE | FORM

NOT_SENDABLE: dict[str, Attack] = {
    "line break inside": whole(lambda text: text.replace(".", ".\n")),
    "line break at the end": whole(lambda text: text + "\n"),
    "NUL at the end": whole(lambda text: text + "\0"),
    "not ascii": whole(lambda text: text + "é"),
    "digits that are not ascii": whole(lambda text: text + "٣"),
    "1 MB": lambda forge: forge.token(x="x" * 750_000),
    "kid of 1 MB": lambda forge: forge.token(header=forge.header(kid="k" * 1_000_000)),
    "2000 deep": claims_text(lambda text: f'{text[:-1]}, "x": {"[" * 2000}{"]" * 2000}}}'),
    "20 MB": lambda forge: "A" * 20_000_000,
}
"""What no header of a call can hold; the wrapper is asked directly."""
