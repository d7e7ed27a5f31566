"""Who calls, over real handshakes: certificates core lets in, and connections that outlived their trust."""

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from grpc.aio import AioRpcError

from hauberk.certs.bundle import Bundle
from hauberk.certs.credentials import anonymous_server_credentials
from hauberk.certs.watch import Watch
from hauberk.interceptors.peer import Trust
from tests.certs import forge
from tests.certs.forge import Party, dns, uri
from tests.interceptors.raw_http2 import RawConnection, tls, tls_of
from tests.interceptors.stage import Clock, Shape, Stage, call, echo, info, path, policy

UNARY = Shape.UNARY_UNARY
HOUR = timedelta(hours=1)


class Pki:
    """A root, an intermediate and a server's certificate, valid now; and clients' certificates good and
    bad.
    """

    def __init__(self) -> None:
        self.times: dict[str, Any] = {"begins": datetime.now(UTC) - HOUR, "ends": datetime.now(UTC) + HOUR}
        self.root = forge.ca(**self.times)
        self.intermediate = forge.ca("intermediate", self.root, **self.times)
        self.server = self.leaf(names=[uri("spiffe://mesh.test/server"), dns("server.mesh.test")])

    def leaf(self, issuer: Party | None = None, **how: Any) -> Party:
        return forge.leaf(issuer or self.intermediate, **{**self.times, **how})

    @property
    def bundle(self) -> Bundle:
        return Bundle({"mesh.test": (self.root.certificate,)}, (self.intermediate.certificate,))

    def server_credentials(self, server: Party | None = None) -> grpc.ServerCredentials:
        server = server or self.server
        return grpc.ssl_server_credentials(
            [(server.key_pem, server.pem + self.intermediate.pem)],
            root_certificates=self.root.pem,
            require_client_auth=True,
        )

    def channel_credentials(self, client: Party) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.root.pem, client.key_pem, chain_pem(client))


def chain_pem(client: Party) -> bytes:
    """The certificate and what signed it, without the root."""
    found, party = b"", client
    while party.issuer is not None:
        found, party = found + party.pem, party.issuer
    return found


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


async def serve(stage: Stage, pki: Pki, *, ran: list[Any] | None = None, **how: Any) -> str:
    stage.trust.set(Trust(pki.bundle))
    how.setdefault("credentials", pki.server_credentials())
    return await stage.serve({"Echo": (UNARY, echo(UNARY, ran), policy("Echo", UNARY, "*"))}, **how)


async def refused(channel: grpc.aio.Channel, shape: Shape = UNARY, name: str = "Echo") -> AioRpcError:
    with pytest.raises(AioRpcError) as caught:
        await call(channel, shape, name)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, caught.value
    return caught.value


def names(*texts: str) -> dict[str, Any]:
    return {"names": [uri(text) for text in texts]}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no san, only a common name": (
        {"names": None, "subject": "spiffe://mesh.test/orders"},
        "NOT_A_SPIFFE_ID",
    ),
    "dns name only": ({"names": [dns("orders.mesh.test")]}, "NOT_A_SPIFFE_ID"),
    "two spiffe ids": (names("spiffe://mesh.test/orders", "spiffe://mesh.test/admin"), "NOT_A_SPIFFE_ID"),
    "https uri": (names("https://mesh.test/orders"), "NOT_A_SPIFFE_ID"),
    "foreign trust domain": (names("spiffe://other.test/orders"), "UNTRUSTED_ISSUER"),
    "capitals in the trust domain": (names("spiffe://MESH.test/orders"), "NOT_A_SPIFFE_ID"),
    "capitals in the path": (names("spiffe://mesh.test/Orders"), "NOT_A_SPIFFE_ID"),
    "dot segments": (names("spiffe://mesh.test/a/../orders"), "NOT_A_SPIFFE_ID"),
    "percent sign": (names("spiffe://mesh.test/adm%69n"), "NOT_A_SPIFFE_ID"),
    "query": (names("spiffe://mesh.test/orders?x=1"), "NOT_A_SPIFFE_ID"),
    "port": (names("spiffe://mesh.test:80/orders"), "NOT_A_SPIFFE_ID"),
    "userinfo": (names("spiffe://admin@mesh.test/orders"), "NOT_A_SPIFFE_ID"),
    "trailing slash": (names("spiffe://mesh.test/orders/"), "NOT_A_SPIFFE_ID"),
    "nul": (names("spiffe://mesh.test/orders\0/admin"), "NOT_A_SPIFFE_ID"),
    "3000 bytes of path": (names("spiffe://mesh.test/" + "o" * 3000), "NOT_A_SPIFFE_ID"),
    "no path": (names("spiffe://mesh.test"), "NOT_A_SPIFFE_ID"),
    "ca": ({"is_ca": True}, "NOT_A_SPIFFE_ID"),
    "may sign certificates": (
        {"key_usage": forge.usage(digital_signature=True, key_cert_sign=True)},
        "NOT_A_SPIFFE_ID",
    ),
    "rsa of 1024 bits": ({"key": "rsa-1024"}, "NOT_A_SPIFFE_ID"),
    "no extended key usage": ({"extended": None}, "NOT_A_SPIFFE_ID"),
    "client authentication only": ({"extended": [ExtendedKeyUsageOID.CLIENT_AUTH]}, "NOT_A_SPIFFE_ID"),
    "twelve deep": ({"deep": 12}, "UNTRUSTED_ISSUER"),
}


@pytest.mark.parametrize(("how", "reason"), WRONG.values(), ids=WRONG.keys())
async def test_certificate_core_lets_in_is_refused(
    stage: Stage, pki: Pki, how: dict[str, Any], reason: str
) -> None:
    how, issuer = dict(how), pki.intermediate
    if how.get("key") == "rsa-1024":
        how["key"] = rsa.generate_private_key(65537, 1024)
    for depth in range(how.pop("deep", 0)):
        issuer = forge.ca(f"deeper-{depth}", issuer, **pki.times)
    ran: list[Any] = []
    await serve(stage, pki, ran=ran)
    client = pki.leaf(issuer, **how)
    error = await refused(stage.channel(credentials=pki.channel_credentials(client)))
    assert info(error).reason == reason
    assert not ran
    (record,) = await stage.records()
    assert (record["grpc.status"], record["error.reason"]) == ("UNAUTHENTICATED", reason)
    assert record["client.spiffe_id"] is None


@pytest.mark.parametrize("how", [{}, {"key": "rsa-2048"}], ids=["p-256", "rsa-2048"])
async def test_certificate_as_it_should_be_is_served(stage: Stage, pki: Pki, how: dict[str, Any]) -> None:
    await serve(stage, pki)
    if how:
        how = {"key": rsa.generate_private_key(65537, 2048)}
    channel = stage.channel(credentials=pki.channel_credentials(pki.leaf(**how)))
    assert await call(channel, UNARY) == [b"hello"]


async def test_authority_of_another_trust_domain_cannot_name_ours(stage: Stage, pki: Pki) -> None:
    """Both roots are trusted, as in a federation; core asks no more than that."""
    other = forge.ca("other", **pki.times)
    both = Bundle({"mesh.test": (pki.root.certificate,), "other.test": (other.certificate,)})
    await serve(
        stage,
        pki,
        credentials=grpc.ssl_server_credentials(
            [(pki.server.key_pem, pki.server.pem + pki.intermediate.pem)],
            root_certificates=both.pem(),
            require_client_auth=True,
        ),
    )
    stage.trust.set(Trust(both))
    forger = pki.leaf(other)
    error = await refused(stage.channel(credentials=pki.channel_credentials(forger)))
    assert info(error).reason == "UNTRUSTED_ISSUER"


async def test_svid_that_expired_on_a_living_connection_is_refused(stage: Stage, shape: Shape) -> None:
    clock = Clock()
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))}, clock=clock)
    channel = stage.channel()
    assert await call(channel, shape) == [b"hello"]
    clock.now += timedelta(minutes=59, seconds=50)
    assert await call(channel, shape) == [b"hello"]
    clock.now += timedelta(minutes=1)
    error = await refused(channel, shape)
    assert info(error).reason == "SVID_EXPIRED"
    assert info(error).metadata["caller"] == "spiffe://mesh.test/gateway"


async def test_identity_revoked_on_a_living_connection_is_refused(stage: Stage, shape: Shape) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))})
    channel, bundle = stage.channel(), stage.authority.bundle
    assert await call(channel, shape) == [b"hello"]
    stage.trust.set(Trust(bundle, frozenset({"spiffe://mesh.test/gateway"})))
    assert info(await refused(channel, shape)).reason == "REVOKED"
    assert await call(stage.channel("orders"), shape) == [b"hello"]
    stage.trust.set(Trust(bundle))
    assert await call(channel, shape) == [b"hello"]


async def test_root_that_left_the_bundle_takes_living_connections_with_it(
    stage: Stage, shape: Shape, pki: Pki
) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))})
    channel = stage.channel()
    assert await call(channel, shape) == [b"hello"]
    stage.trust.set(Trust(pki.bundle))
    assert info(await refused(channel, shape)).reason == "UNTRUSTED_ISSUER"
    stage.trust.set(Trust(stage.authority.bundle.merge(pki.bundle)))
    assert await call(channel, shape) == [b"hello"]


async def test_intermediate_that_expired_is_noticed_on_a_living_connection(stage: Stage, pki: Pki) -> None:
    """A chain once verified is remembered for a minute, not for good."""
    clock = Clock()
    times = {**pki.times, "ends": clock.now + timedelta(minutes=10)}
    short = forge.ca("short-lived", pki.root, **times)
    await serve(stage, pki, clock=clock)
    stage.trust.set(Trust(Bundle({"mesh.test": (pki.root.certificate,)}, (short.certificate,))))
    channel = stage.channel(credentials=pki.channel_credentials(pki.leaf(short)))
    assert await call(channel, UNARY) == [b"hello"]
    clock.now += timedelta(minutes=9)
    assert await call(channel, UNARY) == [b"hello"]
    clock.now += timedelta(minutes=2)
    assert info(await refused(channel)).reason == "UNTRUSTED_ISSUER"


def resume(
    address: str, context: ssl.SSLContext, between: Callable[[], None]
) -> tuple[bool, dict[str, bytes]]:
    """Call, keep the session, run `between`, call through the session: whether it resumed, and what came
    back.
    """
    with RawConnection(address, context) as first:
        assert first.call(path("Echo")).get("grpc-status") == b"0"
        session = first.session
    between()
    with RawConnection(address, context, session=session) as second:
        return second.resumed, second.call(path("Echo"))


async def test_expired_svid_is_refused_through_a_resumed_session(stage: Stage, tmp_path: Path) -> None:
    """Core checks no dates when a session resumes: a ticket lives for two days, an SVID for an hour."""
    clock = Clock()
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "*"))}, clock=clock)
    context = tls_of(tmp_path, stage.credentials("gateway").svid, version=ssl.TLSVersion.TLSv1_3)

    def expire() -> None:
        clock.now += 2 * HOUR

    resumed, trailers = await asyncio.to_thread(resume, stage.address, context, expire)
    assert resumed
    assert trailers["grpc-status"] == b"16"
    assert b"expired" in trailers["grpc-message"]


async def test_resumed_session_gets_what_its_certificate_still_has(stage: Stage, tmp_path: Path) -> None:
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "*"))})
    context = tls_of(tmp_path, stage.credentials("gateway").svid, version=ssl.TLSVersion.TLSv1_3)
    resumed, trailers = await asyncio.to_thread(resume, stage.address, context, lambda: None)
    assert resumed
    assert trailers["grpc-status"] == b"0"


async def test_revoked_identity_is_refused_through_a_resumed_session(stage: Stage, tmp_path: Path) -> None:
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "*"))})
    context = tls_of(tmp_path, stage.credentials("gateway").svid, version=ssl.TLSVersion.TLSv1_3)

    def revoke() -> None:
        stage.trust.set(Trust(stage.authority.bundle, frozenset({"spiffe://mesh.test/gateway"})))

    resumed, trailers = await asyncio.to_thread(resume, stage.address, context, revoke)
    assert resumed
    assert trailers["grpc-status"] == b"16"
    assert b"revoked" in trailers["grpc-message"]


def old_tls(address: str, context: ssl.SSLContext) -> tuple[bool, list[dict[str, bytes]]]:
    with RawConnection(address, context) as first:
        answers, session = [first.call(path("Echo"))], first.session
    with RawConnection(address, context, session=session) as second:
        answers.append(second.call(path("Echo")))
        return second.resumed, answers


async def test_tls_1_2_is_refused_where_core_speaks_it(stage: Stage, pki: Pki, tmp_path: Path) -> None:
    """The server's key is RSA, so that TLS 1.2 is left to it whatever GRPC_SSL_CIPHER_SUITES says here."""
    ran: list[Any] = []
    server = pki.leaf(key=rsa.generate_private_key(65537, 2048))
    await serve(stage, pki, ran=ran, credentials=pki.server_credentials(server))
    client = pki.leaf()
    context = tls(tmp_path, client.key_pem, chain_pem(client), version=ssl.TLSVersion.TLSv1_2)
    resumed, answers = await asyncio.to_thread(old_tls, stage.address, context)
    assert resumed
    for trailers in answers:
        assert trailers["grpc-status"] == b"16"
        assert b"TLSv1.2" in trailers["grpc-message"]
    assert not ran


async def test_nobody_without_a_certificate_where_core_asks_for_none(stage: Stage, shape: Shape) -> None:
    await stage.serve(
        {"Echo": (shape, echo(shape), policy("Echo", shape, "*"))},
        credentials=anonymous_server_credentials(Watch(stage.credentials("server"))),
    )
    channel = stage.channel(credentials=grpc.ssl_channel_credentials(stage.authority.bundle.pem()))
    assert info(await refused(channel, shape)).reason == "NO_CERTIFICATE"
    assert info(await refused(channel, shape, "/lab.v1.Lab/Nothing")).reason == "NO_CERTIFICATE"


async def test_anonymous_method_serves_callers_without_a_certificate(stage: Stage, shape: Shape) -> None:
    await stage.serve(
        {"Echo": (shape, echo(shape), policy("Echo", shape, anonymous=True))},
        credentials=anonymous_server_credentials(Watch(stage.credentials("server"))),
    )
    channel = stage.channel(credentials=grpc.ssl_channel_credentials(stage.authority.bundle.pem()))
    assert await call(channel, shape) == [b"hello"]
    (record,) = await stage.records()
    assert record["client.spiffe_id"] is None


async def test_certificate_shown_to_an_anonymous_method_must_hold(stage: Stage, shape: Shape) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, anonymous=True))})
    channel = stage.channel()
    assert await call(channel, shape) == [b"hello"]
    stage.trust.set(Trust(stage.authority.bundle, frozenset({"spiffe://mesh.test/gateway"})))
    assert info(await refused(channel, shape)).reason == "REVOKED"


async def test_plaintext_is_refused_even_if_a_port_is_opened(stage: Stage, shape: Shape) -> None:
    guard = stage.new_guard()
    await stage.start(guard, insecure=True)
    async with grpc.aio.insecure_channel(stage.address) as channel:
        assert info(await refused(channel, shape)).reason == "NO_CERTIFICATE"


async def test_unknown_method_is_told_only_to_those_with_a_name(stage: Stage, shape: Shape) -> None:
    await stage.start(stage.new_guard())
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(), shape, "/lab.v1.Lab/Nothing")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert info(caught.value).reason == "UNKNOWN_METHOD"
    (record,) = await stage.records()
    assert (record["rpc.method"], record["grpc.status"]) == ("_OTHER", "UNIMPLEMENTED")
