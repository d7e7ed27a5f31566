"""`hauberk doctor HOST:PORT` names the cause, against real servers that are each wrong in one way."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hauberk.certs.authority import Authority
from hauberk.certs.credentials import Credentials, server_credentials
from hauberk.certs.identity import SpiffeId
from hauberk.certs.store import CredentialStore
from hauberk.certs.watch import Watch
from hauberk.cli.probe import Shown, Verdict, probe

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


def spiffe(name: str) -> SpiffeId:
    return SpiffeId.of("shop.test", name)


@dataclass(frozen=True)
class Town:
    """Our mesh's authority, another of the same trust domain, and what we show at the door."""

    ours: Authority
    theirs: Authority
    folder: Path

    def credentials(
        self,
        name: str,
        *,
        by: Authority | None = None,
        trusting: Authority | None = None,
        made: datetime = NOW,
        lifetime: timedelta = HOUR,
    ) -> Credentials:
        svid = (by or self.ours).issue(spiffe(name), lifetime=lifetime, now=made)
        return Credentials(svid, (trusting or by or self.ours).bundle)

    def shown(self, credentials: Credentials | None = None) -> Shown:
        credentials = credentials or self.credentials("gateway")
        store = CredentialStore(self.folder / "shown")
        store.write(credentials)
        return Shown(credentials=credentials, chain_path=store.chain_path, key_path=store.key_path)


@pytest.fixture
def town(tmp_path: Path) -> Town:
    ours = Authority.create(tmp_path / "ours", "shop.test", now=NOW - 3 * HOUR)
    theirs = Authority.create(tmp_path / "theirs", "shop.test", now=NOW - 3 * HOUR)
    return Town(ours=ours, theirs=theirs, folder=tmp_path)


@asynccontextmanager
async def serving(credentials: Credentials) -> AsyncIterator[str]:
    """A gRPC server with these credentials, which demands a client certificate; its address."""
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", server_credentials(Watch(credentials)))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@contextmanager
def tls_server(context: ssl.SSLContext, *, says: bytes = b"") -> Iterator[str]:
    """A plain TLS server that says something after the handshake and waits for the client to leave."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    accepted, _ = listening.accept()
                    accepted.settimeout(5)
                    with (
                        contextlib.suppress(OSError),
                        context.wrap_socket(accepted, server_side=True) as secured,
                    ):
                        secured.sendall(says)
                        secured.recv(100)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


async def judged(
    address: str, shown: Shown, *, expected: str | None = None, now: datetime | None = None
) -> Verdict:
    who = spiffe(expected) if expected else None
    return await asyncio.to_thread(probe, address, shown, expected=who, now=now or datetime.now(UTC))


async def test_a_server_that_is_well_is_named(town: Town) -> None:
    async with serving(town.credentials("orders")) as address:
        verdict = await judged(address, town.shown(), expected="orders")
    assert (verdict.ok, verdict.server, verdict.tls) == (True, "spiffe://shop.test/orders", "TLSv1.3")


async def test_nothing_listens(town: Town) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    verdict = await judged(address, town.shown())
    assert verdict.cause == "nothing listens there"
    assert "hauberk ps" in verdict.remedy


@pytest.mark.parametrize(
    "target", ["orders", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:99999", ":50051", "h:1:x"]
)
async def test_what_is_no_address_is_said_to_be_none(town: Town, target: str) -> None:
    assert (await judged(target, town.shown())).cause.startswith("not host:port")


async def test_a_host_without_an_address_is_named(town: Town) -> None:
    verdict = await judged("no-such-host.invalid:1", town.shown())
    assert verdict.cause == "no such host: 'no-such-host.invalid'"


async def test_plaintext_grpc_is_recognised(town: Town) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    verdict = await judged(f"127.0.0.1:{port}", town.shown())
    await server.stop(0)
    assert verdict.cause == "the server speaks plaintext, not TLS"


async def test_a_server_of_tls_1_2_is_recognised(town: Town) -> None:
    context = context_of(town)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with tls_server(context) as address:
        verdict = await judged(address, town.shown())
    assert verdict.cause == "the server speaks TLSv1.2, and the mesh speaks TLS 1.3 only"
    assert "GRPC_SSL_CIPHER_SUITES" in verdict.remedy


async def test_tls_without_http_2_is_recognised(town: Town) -> None:
    with tls_server(context_of(town), says=b"220 ready\r\n") as address:
        verdict = await judged(address, town.shown())
    assert verdict.cause == "the server speaks TLS but no HTTP/2"


async def test_our_expired_certificate_is_the_reason_we_are_refused(town: Town) -> None:
    expired = town.credentials("gateway", made=NOW - 2 * HOUR, lifetime=HOUR)
    async with serving(town.credentials("orders")) as address:
        verdict = await judged(address, town.shown(expired))
    assert verdict.cause.startswith(
        "the server refuses our certificate, spiffe://shop.test/gateway: our own svid expired"
    )
    assert "hauberk up" in verdict.remedy


async def test_our_certificate_of_a_ca_the_server_does_not_trust_is_the_reason(town: Town) -> None:
    stranger = town.credentials("gateway", by=town.theirs, trusting=None)
    trusting_both = Credentials(stranger.svid, town.ours.bundle.merge(town.theirs.bundle))
    async with serving(town.credentials("orders")) as address:
        verdict = await judged(address, town.shown(trusting_both))
    assert "the server refuses our certificate" in verdict.cause
    assert "the server trusts another CA" in verdict.cause


async def test_a_server_of_another_ca_is_recognised(town: Town) -> None:
    async with serving(town.credentials("orders", by=town.theirs)) as address:
        verdict = await judged(address, town.shown())
    assert verdict.cause.startswith("the server's certificate is of another CA: ")
    assert verdict.server == "spiffe://shop.test/orders"


async def test_a_servers_expired_certificate_is_recognised(town: Town) -> None:
    async with serving(town.credentials("orders", made=NOW - 2 * HOUR, lifetime=HOUR)) as address:
        verdict = await judged(address, town.shown())
    assert verdict.cause.startswith("the server's certificate expired at ")
    assert "restart orders" in verdict.remedy


async def test_a_clock_that_is_behind_is_recognised(town: Town) -> None:
    async with serving(town.credentials("orders")) as address:
        verdict = await judged(address, town.shown(), now=NOW - 2 * HOUR)
    assert verdict.cause.startswith("the server's certificate is not valid before ")
    assert "clock" in verdict.remedy


async def test_a_server_that_is_somebody_else_is_named(town: Town) -> None:
    async with serving(town.credentials("payments")) as address:
        verdict = await judged(address, town.shown(), expected="orders")
    assert verdict.cause == "the server is spiffe://shop.test/payments, not spiffe://shop.test/orders"


async def test_a_certificate_without_a_spiffe_id_is_recognised(town: Town) -> None:
    with tls_server(context_without_spiffe_id(town.folder)) as address:
        verdict = await judged(address, town.shown())
    assert verdict.cause.startswith("the server's certificate is no SPIFFE identity: ")
    assert verdict.server == ""


def context_of(town: Town) -> ssl.SSLContext:
    store = CredentialStore(town.folder / "server")
    store.write(town.credentials("orders"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(store.chain_path, store.key_path)
    return context


def context_without_spiffe_id(folder: Path) -> ssl.SSLContext:
    """As any web server has it: a DNS name alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - HOUR)
        .not_valid_after(NOW + HOUR)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(key_usage(), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    both = folder / "web.pem"
    both.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context


def key_usage() -> x509.KeyUsage:
    return x509.KeyUsage(True, False, False, False, False, False, False, False, False)
