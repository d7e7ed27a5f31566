"""Which issuers a process believes, and how it keeps their keys: on no call's path, and for not too long."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from hauberk.errors import SettingsError
from hauberk.interceptors.demands import TokenRule
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.issuers import Issuer, KeyRing
from hauberk.interceptors.token_check import Tokens
from hauberk.jwks import fetch
from hauberk.mesh import Mesh
from hauberk.token_issuers import Believed, KeyKeeper
from tests.face.control import Control, eventually
from tests.face.issuing import Publisher, plain, trickle
from tests.face.town import SERVICE, Town, policy
from tests.interceptors.token_forge import ISSUER, KID, Forge, jwk, jwks

BOTH = '[tokens.login]\nissuer = "https://login.mesh.test"\njwks = "keys.json"\n'

MISTAKES = {
    "no toml": ("tokens = ", "is not TOML"),
    "empty": ("", r"has no table \[tokens.NAME\]: write one for each issuer"),
    "misspelt": ("[token.login]\n", r"unknown table \[token\]: did you mean \[tokens.NAME\]"),
    "no tables": ("tokens = 1", r"has no table \[tokens.NAME\]"),
    "a number": ("[tokens]\nlogin = 1", r"\[tokens.login\] expected `object`, got `int`"),
    "nothing said": ("[tokens.login]", r"\[tokens.login\] object missing required field `issuer`"),
    "unknown key": (BOTH + "url = 1", r"\[tokens.login\] object contains unknown field `url`"),
    "another type": (BOTH + "typ = 1", r"\[tokens.login\] expected `str`, got `int` - at `typ`"),
    "symmetric": (
        BOTH + 'algorithm = "HS256"',
        r"\[tokens.login\] algorithm is none of ES256, RS256: 'HS256'",
    ),
    "long life": (BOTH + "max_lifetime_seconds = 100000", "max_lifetime is not 1 s to 86400 s: 100000"),
    "no life": (BOTH + "max_lifetime_seconds = 0", "max_lifetime is not 1 s"),
    "empty typ": (BOTH + 'typ = ""', "typ is no media type"),
    "spaces": (BOTH.replace("https://login.mesh.test", "a b"), "name is no printable text without spaces"),
    "plain http": (BOTH.replace("keys.json", "http://login.test/k"), "write https: only this machine"),
    "no file": (BOTH.replace("keys.json", ""), "jwks is neither a URL nor a file"),
    "twice": (BOTH + BOTH.replace("login]", "other]"), "two tables for one issuer"),
}


@pytest.mark.parametrize(("text", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_each_mistake_is_one_line_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "issuers.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=said) as caught:
        Believed.of(file)
    assert str(caught.value).startswith(f"HAUBERK_TOKEN_ISSUERS: {file}")
    assert len(str(caught.value).splitlines()) == 1


def test_file_that_is_not_there_is_a_mistake_and_none_is_not(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        Believed.of(tmp_path / "issuers.toml")
    assert Believed.of(None) is None


def test_tables_of_others_in_the_same_file_are_theirs(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('trust_domain = "shop.test"\n[workloads.a]\ncommand = ["x"]\n' + BOTH)
    believed = Believed.of(file)
    assert believed is not None
    issuer = believed.tables["login"].to_issuer("spiffe://shop.test/a")
    assert (issuer.audience, issuer.typ, issuer.max_lifetime_s) == ("spiffe://shop.test/a", "at+jwt", 900)


@asynccontextmanager
async def keeping(
    town: Town, source: Callable[[], bytes], **times: float
) -> AsyncIterator[tuple[KeyKeeper, grpc.aio.Channel]]:
    """A server that demands tokens of ISSUER, whose keys come from `source`; and a channel to it."""
    ring = KeyRing(Issuer(name=ISSUER, audience="spiffe://mesh.test/server"))
    keeper = KeyKeeper(ring, source, **times)
    server = town.server(tokens=Tokens([ring], failures_per_s=1e6))
    server.add(SERVICE, town.lab.handlers(), {"Echo": policy("Echo", token=TokenRule(bound=False))})
    await server.start()
    task = asyncio.create_task(keeper.keep())
    try:
        await asyncio.wait_for(keeper.tried.wait(), 10)
        yield keeper, town.channel(server.address)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def answer(channel: grpc.aio.Channel, token: str) -> str:
    """OK, or the details of the refusal."""
    echo: Any = channel.unary_unary(f"/{SERVICE}/Echo")
    try:
        await echo(b"x", timeout=10, metadata=(("authorization", f"Bearer {token}"),))
    except AioRpcError as error:
        return str(error.details())
    return "OK"


REFUSED = "access token refused"


@pytest.fixture
def forge() -> Forge:
    return Forge()


@pytest.mark.alone
async def test_storm_of_unknown_keys_fetches_once_per_interval(town: Town, forge: Forge) -> None:
    again_s, began = 0.4, time.monotonic()
    with Publisher(plain(jwks(jwk(forge.key, KID)))) as publisher:
        async with keeping(town, lambda: fetch(publisher.url), again_s=again_s) as (_, channel):
            ends, asked = time.monotonic() + 4 * again_s, 0
            while time.monotonic() < ends:
                unknown = [forge.token(header=forge.header(kid=f"u-{asked + n}")) for n in range(10)]
                assert await asyncio.gather(*(answer(channel, token) for token in unknown)) == [REFUSED] * 10
                asked += 10
                assert await answer(channel, forge.token()) == "OK"
        assert asked >= 20
        assert 3 <= len(publisher.asked) <= 1 + (time.monotonic() - began) / again_s


@pytest.mark.alone
async def test_no_call_waits_for_an_issuer_that_is_slow(town: Town, forge: Forge) -> None:
    with Publisher(plain(jwks(jwk(forge.key, KID)))) as publisher:
        async with keeping(town, lambda: fetch(publisher.url, 2.0), again_s=0.05) as (_, channel):
            publisher.answer = trickle
            asked = len(publisher.asked)
            assert await answer(channel, forge.token(header=forge.header(kid="u-1"))) == REFUSED
            await eventually(lambda: len(publisher.asked) > asked)
            began = time.monotonic()
            assert await answer(channel, forge.token(header=forge.header(kid="u-2"))) == REFUSED
            assert await answer(channel, forge.token()) == "OK"
            assert time.monotonic() - began < 1.5, "a call waited for the issuer"


async def test_key_that_was_added_is_fetched_when_a_token_names_it(town: Town, forge: Forge) -> None:
    with Publisher(plain(jwks(jwk(forge.stranger, "k-0")))) as publisher:
        async with keeping(town, lambda: fetch(publisher.url), again_s=0.1) as (_, channel):
            publisher.answer = plain(jwks(jwk(forge.stranger, "k-0"), jwk(forge.key, KID)))
            assert await answer(channel, forge.token()) == REFUSED
            async with asyncio.timeout(10):
                while await answer(channel, forge.token()) != "OK":  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.02)
            assert len(publisher.asked) <= 3


async def test_key_that_was_removed_is_good_no_more_after_the_next_renewal(town: Town, forge: Forge) -> None:
    with Publisher(plain(jwks(jwk(forge.key, KID)))) as publisher:
        async with keeping(town, lambda: fetch(publisher.url), refresh_s=0.1, again_s=0.05) as (_, channel):
            assert await answer(channel, forge.token()) == "OK"
            publisher.answer = plain(jwks(jwk(forge.stranger, "k-2")))
            async with asyncio.timeout(10):
                while await answer(channel, forge.token()) == "OK":  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.02)


async def test_issuer_that_is_away_is_believed_until_its_keys_are_too_old(town: Town, forge: Forge) -> None:
    """Then no more, remembered tokens neither; and again as soon as it is back."""
    good = plain(jwks(jwk(forge.key, KID)))
    with Publisher(good) as publisher:
        times = {"refresh_s": 0.1, "again_s": 0.05, "ttl_s": 3.0}
        async with keeping(town, lambda: fetch(publisher.url), **times) as (keeper, channel):
            token = forge.token()
            assert await answer(channel, token) == "OK"
            publisher.answer = plain(b"oops", 500)
            failed = len(publisher.asked)
            await eventually(lambda: len(publisher.asked) > failed + 2)
            assert await answer(channel, token) == "OK"
            assert await answer(channel, forge.token(sub="bob")) == "OK"
            await eventually(lambda: time.monotonic() > keeper.ring.good_until)
            assert await answer(channel, token) == REFUSED
            assert await answer(channel, forge.token(sub="carol")) == REFUSED
            publisher.answer = good
            asked = len(publisher.asked)
            await eventually(lambda: len(publisher.asked) > asked + 1)
            assert await answer(channel, token) == "OK"


@pytest.mark.parametrize(
    "published", [b"<html>", b'{"keys": []}', b"", b"{"], ids=["html", "no keys", "empty", "half"]
)
async def test_set_that_is_none_replaces_nothing(town: Town, forge: Forge, published: bytes) -> None:
    with Publisher(plain(jwks(jwk(forge.key, KID)))) as publisher:
        async with keeping(town, lambda: fetch(publisher.url), refresh_s=0.05, again_s=0.05) as (_, channel):
            publisher.answer = plain(published)
            asked = len(publisher.asked)
            await eventually(lambda: len(publisher.asked) > asked + 2)
            assert await answer(channel, forge.token()) == "OK"


async def test_source_that_breaks_in_a_way_of_its_own_is_tried_again(town: Town, forge: Forge) -> None:
    answers: list[Any] = [RuntimeError("oops"), jwks(jwk(forge.key, KID))]

    def source() -> bytes:
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(found, Exception):
            raise found
        return bytes(found)

    async with keeping(town, source, again_s=0.05) as (keeper, channel):
        await eventually(lambda: keeper.ring.good_until > 0)
        assert await answer(channel, forge.token()) == "OK"


def issuers_file(folder: Path, *keys: dict[str, Any]) -> Path:
    (folder / "keys.json").write_bytes(jwks(*keys))
    file = folder / "issuers.toml"
    file.write_text(BOTH)
    return file


def demanding(mesh: Mesh, control_lab: Any) -> Any:
    server = mesh.server(announce=None)
    server.add(SERVICE, control_lab.handlers(), {"Echo": policy("Echo", token=TokenRule(bound=False))})
    return server


async def test_member_believes_the_issuers_of_its_file(control: Control, town: Town, tmp_path: Path) -> None:
    """Its own SPIFFE ID is the audience, and a bound token is good over the mesh as elsewhere."""
    forge = Forge(audience="spiffe://shop.test/catalog")
    file = issuers_file(tmp_path, jwk(forge.key, KID))
    catalog = await control.member("catalog", token_issuers=file)
    server = demanding(catalog, town.lab)
    await server.start()
    gateway = await control.member("gateway")
    channel = gateway.direct_channel("catalog", server.address)
    await eventually(lambda: catalog._keys is not None and catalog._keys._keepers[0].tried.is_set())
    assert await answer(channel, forge.token()) == "OK"
    assert await answer(channel, Forge(audience="spiffe://shop.test/catalog").token()) == REFUSED
    assert await answer(channel, forge.token(aud="spiffe://shop.test/orders")) == REFUSED


async def test_member_that_believes_nobody_serves_no_method_that_demands_a_token(
    control: Control, town: Town
) -> None:
    catalog = await control.member("catalog")
    with pytest.raises(PolicyError, match="demands a token, but this process believes no issuer"):
        demanding(catalog, town.lab)


async def test_member_with_a_mistake_in_its_file_does_not_join(control: Control, tmp_path: Path) -> None:
    file = tmp_path / "issuers.toml"
    file.write_text(BOTH + 'algorithm = "none"')
    with pytest.raises(SettingsError, match=r"\[tokens.login\] algorithm is none of"):
        await control.member("catalog", token_issuers=file)
