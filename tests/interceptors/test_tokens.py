"""What a server makes of the tokens that calls bring: bound, remembered, rationed, and passed on."""

import asyncio
import threading
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.rpc.error_details_pb2 import RetryInfo
from grpc.aio import AioRpcError

from hauberk.interceptors import token_check
from hauberk.interceptors.call import Call
from hauberk.interceptors.demands import TokenRule
from hauberk.interceptors.errors import PUSHBACK_KEY, PolicyError, TokenChecksSpent, TokenRefused
from hauberk.interceptors.policy import Policy
from hauberk.interceptors.token_check import Tokens
from hauberk.interceptors.tracing import TraceContext
from tests.interceptors.stage import (
    SERVICE,
    Shape,
    Stage,
    call,
    echo,
    info,
    method,
    policy,
)
from tests.interceptors.test_quota import found
from tests.interceptors.token_calls import UNARY, bearer, caller, logged, refused, serve
from tests.interceptors.token_forge import KID, Forge, bound_to, jwk


async def test_bound_token_is_good_for_its_own_certificate_alone(
    stage: Stage, forge: Forge, shape: Shape
) -> None:
    """Also once it is remembered, and by another certificate of the same workload (RFC 8705 section 3)."""
    ran = await serve(stage, forge, TokenRule(), shape)
    (mine, thumbprint), (twin, _), (thief, _) = caller(stage), caller(stage), caller(stage, "thief")
    brought = bearer(forge.token(cnf=bound_to(thumbprint)))
    assert await refused(thief, shape, metadata=brought) == ("UNAUTHENTICATED", "TOKEN_REFUSED")
    assert await call(mine, shape, metadata=brought) == [b"hello"]
    assert await refused(thief, shape, metadata=brought) == ("UNAUTHENTICATED", "TOKEN_REFUSED")
    assert await refused(twin, shape, metadata=brought) == ("UNAUTHENTICATED", "TOKEN_REFUSED")
    assert await call(mine, shape, metadata=brought) == [b"hello"]
    assert len(ran) == 2
    other = "TOKEN_OF_ANOTHER_CERTIFICATE"
    assert await logged(stage, 5) == [other, None, other, other, None]


@pytest.mark.parametrize(
    "confirmation",
    [None, {}, {"jkt": "x" * 43}, {"x5t#S256": ""}, {"x5t#S256": 1}, {"x5t": "HERE"}, ["HERE"], "HERE"],
    ids=["none", "empty", "another method", "empty text", "number", "sha-1's name", "list", "text"],
)
async def test_token_that_is_bound_to_no_certificate_is_refused_where_it_must_be(
    stage: Stage, forge: Forge, confirmation: Any
) -> None:
    await serve(stage, forge, TokenRule())
    channel, thumbprint = caller(stage)
    if confirmation == {"x5t": "HERE"}:
        confirmation = {"x5t": thumbprint}
    elif confirmation == ["HERE"]:
        confirmation = [bound_to(thumbprint)]
    elif confirmation == "HERE":
        confirmation = thumbprint
    token = forge.token() if confirmation is None else forge.token(cnf=confirmation)
    assert await refused(channel, metadata=bearer(token)) == ("UNAUTHENTICATED", "TOKEN_REFUSED")


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic {}", "{}", "Bearer  {}", "DPoP {}", "Bearer {} x"],
)
async def test_header_that_is_no_bearer_token_is_refused(stage: Stage, forge: Forge, header: str) -> None:
    ran = await serve(stage, forge, TokenRule(bound=False))
    brought = (("authorization", header.format(forge.token())),)
    status, reason = await refused(stage.channel(), metadata=brought)
    assert (status, reason) in {
        ("UNAUTHENTICATED", "TOKEN_REFUSED"),
        ("INVALID_ARGUMENT", "METADATA_REFUSED"),
    }
    assert not ran


async def test_scheme_may_be_written_in_any_case(stage: Stage, forge: Forge) -> None:
    await serve(stage, forge, TokenRule(bound=False))
    for scheme in ("Bearer", "bearer", "BEARER"):
        brought = (("authorization", f"{scheme} {forge.token()}"),)
        assert await call(stage.channel(), UNARY, metadata=brought) == [b"hello"]


async def test_two_tokens_are_refused_both_being_good(stage: Stage, forge: Forge, shape: Shape) -> None:
    ran = await serve(stage, forge, TokenRule(bound=False), shape)
    brought = (*bearer(forge.token()), *bearer(forge.token()))
    assert await refused(stage.channel(), shape, metadata=brought) == ("INVALID_ARGUMENT", "METADATA_REFUSED")
    assert not ran


async def test_token_ends_when_it_says_though_it_is_remembered(stage: Stage, forge: Forge) -> None:
    now = [float(forge.now)]
    await serve(stage, forge, TokenRule(bound=False), tokens=forge.tokens(clock=lambda: now[0]))
    channel, brought = stage.channel(), bearer(forge.token(exp=int(now[0]) + 60))
    assert await call(channel, UNARY, metadata=brought) == [b"hello"]
    now[0] += 59.9
    assert await call(channel, UNARY, metadata=brought) == [b"hello"]
    now[0] += 0.1
    assert await refused(channel, metadata=brought) == ("UNAUTHENTICATED", "TOKEN_REFUSED")
    assert (await logged(stage, 3))[-1] == "TOKEN_EXPIRED"


async def test_token_of_a_key_that_was_removed_is_refused_at_once(stage: Stage, forge: Forge) -> None:
    await serve(stage, forge, TokenRule(bound=False))
    channel, brought = stage.channel(), bearer(forge.token())
    assert await call(channel, UNARY, metadata=brought) == [b"hello"]
    forge.publish(jwk(forge.stranger, "k-2"))
    assert await refused(channel, metadata=brought) == ("UNAUTHENTICATED", "TOKEN_REFUSED")
    forge.publish(jwk(forge.stranger, KID))  # the same name, another key
    assert await refused(channel, metadata=brought) == ("UNAUTHENTICATED", "TOKEN_REFUSED")
    forge.publish(jwk(forge.key, KID), jwk(forge.stranger, "k-2"))
    assert await call(channel, UNARY, metadata=brought) == [b"hello"]
    assert await logged(stage, 4) == [None, "TOKEN_KEY_UNKNOWN", "TOKEN_SIGNATURE", None]


async def test_tokens_of_an_issuer_whose_keys_are_too_old_are_refused(stage: Stage, forge: Forge) -> None:
    await serve(stage, forge, TokenRule(bound=False))
    channel, brought = stage.channel(), bearer(forge.token())
    assert await call(channel, UNARY, metadata=brought) == [b"hello"]
    forge.ring.good_until = time.monotonic()
    assert await refused(channel, metadata=brought) == ("UNAUTHENTICATED", "TOKEN_REFUSED")
    assert await refused(channel, metadata=bearer(forge.token(sub="bob"))) == (
        "UNAUTHENTICATED",
        "TOKEN_REFUSED",
    )
    assert await logged(stage, 3) == [None, "TOKEN_KEYS_STALE", "TOKEN_KEYS_STALE"]
    assert await call(channel, UNARY, metadata=bearer(forge.rsa_token())) == [b"hello"]  # another issuer's


async def test_keys_that_are_renewed_unchanged_forget_no_token(stage: Stage, forge: Forge) -> None:
    tokens = forge.tokens()
    await serve(stage, forge, TokenRule(bound=False), tokens=tokens)
    await call(stage.channel(), UNARY, metadata=bearer(forge.token()))
    known = tokens._known
    forge.publish(jwk(forge.key, KID))
    assert tokens._known is known
    assert len(known) == 1


async def test_no_more_tokens_are_remembered_than_that(
    stage: Stage, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_check, "REMEMBERED", 3)
    tokens = forge.tokens()
    await serve(stage, forge, TokenRule(bound=False), tokens=tokens)
    channel = stage.channel()
    for number in range(5):
        await call(channel, UNARY, metadata=bearer(forge.token(jti=f"t-{number}")))
    assert [token.claims["jti"] for token, _ in tokens._known.values()] == ["t-2", "t-3", "t-4"]
    await refused(channel, metadata=bearer(forge.token(exp=forge.now - 1, iat=forge.now - 9)))
    assert len(tokens._known) == 3


async def test_peer_whose_tokens_fail_has_to_wait_and_others_do_not(stage: Stage, forge: Forge) -> None:
    await serve(stage, forge, TokenRule(bound=False), tokens=forge.tokens(failures_per_s=20))
    channel, other = stage.channel("gateway"), stage.channel("orders")
    known, bad = bearer(forge.token()), bearer(forge.token(key=forge.stranger))
    assert await call(channel, UNARY, metadata=known) == [b"hello"]
    answers = await asyncio.gather(*(refused(channel, metadata=bad) for _ in range(90)))
    spent = ("RESOURCE_EXHAUSTED", "TOKEN_CHECKS_SPENT")
    assert set(answers) == {("UNAUTHENTICATED", "TOKEN_REFUSED"), spent}
    assert answers.count(("UNAUTHENTICATED", "TOKEN_REFUSED")) >= 20
    assert await call(channel, UNARY, metadata=known) == [b"hello"]
    assert await call(other, UNARY, metadata=bearer(forge.token(sub="bob"))) == [b"hello"]


async def test_peer_that_has_to_wait_is_told_how_long(stage: Stage, forge: Forge) -> None:
    await serve(stage, forge, TokenRule(bound=False), tokens=forge.tokens(failures_per_s=20))
    channel, bad = stage.channel(), bearer(forge.token(key=forge.stranger))
    results = await asyncio.gather(
        *(call(channel, UNARY, metadata=bad) for _ in range(90)), return_exceptions=True
    )
    errors = [each for each in results if isinstance(each, AioRpcError)]
    spent = [each for each in errors if info(each).reason == "TOKEN_CHECKS_SPENT"]
    assert spent
    for error in spent:
        wait_s = found(error, RetryInfo).retry_delay.ToTimedelta().total_seconds()
        assert 0 < wait_s <= 0.1, "one in 20 of a second, and what rounding adds"
        assert 0 < int(dict(error.trailing_metadata() or ())[PUSHBACK_KEY]) <= 100


def test_peer_that_has_failed_20_times_is_looked_at_20_times_a_second(forge: Forge) -> None:
    """Its token, which may be good, is not looked at meanwhile, so no signature of it is verified."""
    tokens = forge.tokens(failures_per_s=20)
    bad, good = (f"Bearer {forge.token(**how)}" for how in ({"key": forge.stranger}, {"sub": "bob"}))
    for _ in range(20):
        with pytest.raises(TokenRefused):
            tokens._learn(bad, some_call(at=1000.0))
    forge.ring.find = None  # type: ignore[method-assign, assignment]
    with pytest.raises(TokenChecksSpent):
        tokens._learn(good, some_call(at=1000.04))
    del forge.ring.find
    with pytest.raises(TokenRefused):
        tokens._learn(bad, some_call(at=1000.06))
    with pytest.raises(TokenChecksSpent):
        tokens._learn(good, some_call(at=1000.07))
    assert tokens._learn(good, some_call(at=1000.2))[0].subject == "bob"


def test_failures_of_no_more_peers_are_counted_than_that(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_check, "_PEERS", 3)
    tokens = forge.tokens()
    for number in range(9):
        with pytest.raises(TokenRefused):
            tokens._learn("Bearer x", some_call(address=f"ipv4:127.0.0.1:{number}"))
    assert len(tokens._failures._empty_at) == 3


def test_method_that_demands_a_token_is_not_served_where_no_issuer_is_believed(stage: Stage) -> None:
    said = policy("Echo", UNARY, "*", token=TokenRule())
    with pytest.raises(PolicyError, match=r"/lab\.v1\.Lab/Echo demands a token.*HAUBERK_TOKEN_ISSUERS"):
        stage.new_guard().add(SERVICE, {"Echo": method(echo(UNARY), UNARY)}, {"Echo": said})


def test_two_issuers_of_one_name_are_refused(forge: Forge) -> None:
    with pytest.raises(ValueError, match="two issuers of one name"):
        Tokens([forge.ring, forge.ring])


def test_tokens_made_under_a_key_that_is_replaced_meanwhile_are_not_remembered(forge: Forge) -> None:
    """The keys change between the look-up of a key and the end of its use, in another thread."""
    tokens = forge.tokens()
    find = forge.ring.find

    def slow(kid: str) -> Any:
        key = find(kid)
        forge.publish(jwk(ec.generate_private_key(ec.SECP256R1()), KID))
        return key

    forge.ring.find = slow  # type: ignore[method-assign]
    learnt = tokens._learn(f"Bearer {forge.token()}", some_call())
    assert learnt[0].subject == "alice"
    assert tokens._known == {}


def test_threads_that_share_the_check_see_no_key_after_it_was_replaced(forge: Forge) -> None:
    """Eight threads call while the keys change under them: each call is admitted or refused, nothing else."""
    tokens, other = forge.tokens(), ec.generate_private_key(ec.SECP256R1())
    check, mine = tokens.check(TokenRule(bound=False)), jwk(forge.key, KID)
    headers = [f"Bearer {forge.token(jti=f't-{number}')}" for number in range(20)]
    stop, odd = threading.Event(), list[BaseException]()

    def admitted(header: str) -> bool:
        brought = some_call(at=time.monotonic())
        brought.authorization = header
        try:
            check(brought)
        except TokenRefused:
            return False
        return True

    def calling() -> None:
        try:
            while not stop.is_set():
                for header in headers:
                    admitted(header)
        except BaseException as error:
            odd.append(error)

    threads = [threading.Thread(target=calling) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            forge.publish(mine)
            assert any(admitted(header) for header in headers)
            forge.publish(jwk(other, KID))
            assert not any(admitted(header) for header in headers)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert odd == []


def some_call(*, at: float = 1000.0, address: str = "ipv4:127.0.0.1:1") -> Call:
    """A call that arrived at this monotonic time."""
    return Call(
        method="/x/y",
        policy=Policy(method="/x/y"),
        metadata=(),
        trace=TraceContext.new(),
        started=at,
        time_left_s=None,
        auth_context={},
        address=address,
    )
