"""Promises of certs/join.py: a token is random, bound, and worth nothing to whoever reads the record."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hauberk.certs import join
from hauberk.certs.errors import IdentityError, TokenExpired, TokenMalformed
from hauberk.certs.identity import SpiffeId
from tests.certs.forge import HOUR, NOW

ORDERS = SpiffeId.of("mesh.test", "orders")
CONTRACT = "shop.orders.v1.Orders"
SECOND = timedelta(seconds=1)


def test_token_is_kept_as_its_digest_and_bound_to_one_name() -> None:
    token, record = join.mint(ORDERS, serves=[CONTRACT, CONTRACT], ttl=HOUR, now=NOW)
    assert record.digest == join.digest(token)
    assert (record.spiffe_id, record.serves, record.expires_at) == (ORDERS, frozenset({CONTRACT}), NOW + HOUR)
    assert token.removeprefix(join.PREFIX) not in repr(record)


def test_tokens_have_256_random_bits() -> None:
    tokens = {join.mint(ORDERS, serves=(), ttl=HOUR, now=NOW)[0] for _ in range(100)}
    assert len(tokens) == 100
    assert {len(token) for token in tokens} == {48}


def test_token_expires_at_its_time_and_not_before() -> None:
    _, record = join.mint(ORDERS, serves=(), ttl=HOUR, now=NOW)
    record.check_dates(NOW + HOUR - SECOND)
    for late in (NOW + HOUR, NOW + HOUR + SECOND):
        with pytest.raises(TokenExpired, match="expired at"):
            record.check_dates(late)


@pytest.mark.parametrize("ttl", [timedelta(0), -HOUR, join.MAX_TTL + SECOND])
def test_time_to_join_is_bounded(ttl: timedelta) -> None:
    with pytest.raises(ValueError, match="lives over 0"):
        join.mint(ORDERS, serves=(), ttl=ttl, now=NOW)


@pytest.mark.parametrize("name", ["control", "a.b", "a_b"])
def test_name_nobody_may_have_gets_no_token(name: str) -> None:
    with pytest.raises(IdentityError):
        join.mint(SpiffeId.of("mesh.test", name), serves=(), ttl=HOUR, now=NOW)


@pytest.mark.parametrize("contract", ["", "a..b", ".a", "a.", "a/b", "*", "shop.*", "a b", "1a", "é"])
def test_what_is_no_contract_gets_no_token(contract: str) -> None:
    with pytest.raises(ValueError, match="not a protobuf service"):
        join.mint(ORDERS, serves=[contract], ttl=HOUR, now=NOW)


TOKEN = join.mint(ORDERS, serves=(), ttl=HOUR, now=NOW)[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hbk1.",
        TOKEN[:-1],
        TOKEN + "A",
        TOKEN + "\n",
        " " + TOKEN,
        TOKEN.upper(),
        "hbk2" + TOKEN[4:],
        TOKEN[5:],
    ],
    ids=["empty", "bare", "short", "long", "line end", "space", "capitals", "other kind", "no kind"],
)
def test_what_is_no_token_is_refused_unshown(text: str) -> None:
    with pytest.raises(TokenMalformed) as refused:
        join.digest(text)
    assert TOKEN[5:20] not in str(refused.value)


@given(st.text())
def test_any_other_text_is_no_token(text: str) -> None:
    with pytest.raises(TokenMalformed):
        join.digest(text)


@given(st.integers(0, 47), st.characters())
def test_one_other_character_is_another_token_or_none(place: int, character: str) -> None:
    other = TOKEN[:place] + character + TOKEN[place + 1 :]
    try:
        digest = join.digest(other)
    except TokenMalformed:
        return
    assert (digest == join.digest(TOKEN)) == (other == TOKEN)
