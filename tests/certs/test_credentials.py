"""Promises of certs/credentials.py, over real handshakes: the latest is served, and nobody else is let in."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from hauberk.certs.bundle import Bundle
from hauberk.certs.credentials import (
    Credentials,
    anonymous_server_credentials,
    pinned_channel_credentials,
    server_credentials,
)
from hauberk.certs.errors import ChainError
from hauberk.certs.identity import SpiffeId, identify
from hauberk.certs.store import CredentialStore
from hauberk.certs.svid import Svid
from hauberk.certs.watch import Watch
from tests.certs import forge
from tests.certs.conftest import Mint

METHOD = "/test.Echo/WhoAmI"
LIMIT_S = 10.0


class WhoAmI(grpc.GenericRpcHandler):
    """Answers with the certificate the caller presented; counts the calls that reached it."""

    def __init__(self) -> None:
        self.calls = 0

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        return grpc.unary_unary_rpc_method_handler(self.answer)

    async def answer(self, _: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        self.calls += 1
        return next(iter(context.auth_context().get("x509_pem_cert", [b"nobody"])))


@asynccontextmanager
async def serving(credentials: grpc.ServerCredentials) -> AsyncIterator[tuple[int, WhoAmI]]:
    server, handler = grpc.aio.server(), WhoAmI()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port, handler
    finally:
        await server.stop(None)


@asynccontextmanager
async def dialled(
    port: int, credentials: grpc.ChannelCredentials, name: str = "orders.mesh.test"
) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    options = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)

        async def call() -> bytes:
            return await method(b"", timeout=LIMIT_S)

        yield call


async def asked(port: int, credentials: grpc.ChannelCredentials, name: str = "orders.mesh.test") -> bytes:
    """The answer to one call on a connection of its own."""
    async with dialled(port, credentials, name) as call:
        return await call()


async def refused(port: int, credentials: grpc.ChannelCredentials, name: str = "orders.mesh.test") -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asked(port, credentials, name)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def presented(port: int, client: CredentialStore | None = None) -> x509.Certificate:
    """The certificate the server shows at a handshake of now."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if client is not None:
        context.load_cert_chain(client.chain_path, client.key_path)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
    der = connection.getpeercert(binary_form=True)
    writer.close()
    assert der is not None
    return x509.load_der_x509_certificate(der)


def forged(mint: Mint, bundle: Bundle, *, ends: timedelta = forge.HOUR) -> Credentials:
    """Names orders.mesh.test, whoever's authority signs; ends so long after now."""
    signer, now = mint.authority._active, datetime.now(UTC)
    issuer = forge.Party(signer.intermediate, signer.key)
    leaf = forge.leaf(issuer, begins=now - forge.HOUR, ends=now + ends)
    return Credentials(Svid.parse(leaf.pem + issuer.pem, leaf.key_pem), bundle)


async def test_both_sides_show_their_svid(mint: Mint) -> None:
    server, client = mint.credentials("orders"), mint.credentials("prod/payments")
    async with serving(server_credentials(Watch(server))) as (port, _):
        identity = identify(await asked(port, client.channel_credentials()))
        assert identity.spiffe_id == SpiffeId.of("mesh.test", "prod/payments")
        assert mint.authority.bundle.verify_leaf(identity.certificate, now=datetime.now(UTC)) == identity


async def test_client_without_a_certificate_is_refused_before_any_handler(mint: Mint) -> None:
    async with serving(server_credentials(Watch(mint.credentials()))) as (port, handler):
        await refused(port, pinned_channel_credentials(mint.authority.bundle))
        assert handler.calls == 0


async def test_client_of_another_authority_is_refused(mint: Mint, tmp_path: Path) -> None:
    stranger = Mint(tmp_path / "stranger").credentials("orders")
    async with serving(server_credentials(Watch(mint.credentials()))) as (port, handler):
        await refused(port, Credentials(stranger.svid, mint.authority.bundle).channel_credentials())
        assert handler.calls == 0


async def test_expired_svid_is_refused_on_either_side(mint: Mint) -> None:
    good, expired = mint.credentials(), forged(mint, mint.authority.bundle, ends=-timedelta(seconds=1))
    async with serving(server_credentials(Watch(good))) as (port, handler):
        await refused(port, expired.channel_credentials())
        assert handler.calls == 0
        assert await asked(port, forged(mint, mint.authority.bundle).channel_credentials()), "but for its end"
    async with serving(server_credentials(Watch(expired))) as (port, handler):
        await refused(port, good.channel_credentials())
        assert handler.calls == 0


async def test_server_of_another_authority_is_refused(mint: Mint, tmp_path: Path) -> None:
    stranger = Mint(tmp_path / "stranger").credentials("orders")
    impostor = Credentials(stranger.svid, stranger.bundle.merge(mint.authority.bundle))
    async with serving(server_credentials(Watch(impostor))) as (port, handler):
        await refused(port, mint.credentials("payments").channel_credentials())
        assert handler.calls == 0


async def test_server_of_another_name_is_refused(mint: Mint) -> None:
    async with serving(server_credentials(Watch(mint.credentials("payments")))) as (port, handler):
        client = mint.credentials().channel_credentials()
        await refused(port, client, "orders.mesh.test")
        assert handler.calls == 0
        assert await asked(port, client, "payments.mesh.test")


async def test_rotations_are_shown_at_the_next_handshake_and_cut_no_call(mint: Mint, tmp_path: Path) -> None:
    watch = Watch(mint.credentials())
    caller = CredentialStore(tmp_path / "caller")
    caller.write(mint.credentials("payments"))
    async with (
        serving(server_credentials(watch)) as (port, handler),
        dialled(port, mint.credentials("payments").channel_credentials()) as call,
    ):
        for rotation in range(4):
            assert await presented(port, caller) == watch.value.svid.leaf
            assert await call()
            assert await asked(port, mint.credentials("payments").channel_credentials())
            assert handler.calls == 2 * (rotation + 1)
            watch.set(mint.credentials())


async def test_root_roll_over_live_servers_fails_no_call_until_retire_ends_the_old(mint: Mint) -> None:
    """Each process takes the new bundle at its next rotation; till then either side may be a step behind."""
    watch = Watch(mint.credentials())
    async with serving(server_credentials(watch)) as (port, _):
        old_client = mint.credentials("payments")
        for step in ("prepare", "activate"):
            mint.roll(step)
            if step == "activate":
                assert await asked(port, mint.credentials("payments").channel_credentials())
            watch.set(mint.credentials())
            stale = Credentials(old_client.svid, mint.authority.bundle)
            assert await asked(port, stale.channel_credentials())
            assert await asked(port, mint.credentials("payments").channel_credentials())
        mint.roll("retire")
        watch.set(mint.credentials())
        await refused(port, Credentials(old_client.svid, mint.authority.bundle).channel_credentials())
        await refused(port, old_client.channel_credentials())
        assert await asked(port, mint.credentials("payments").channel_credentials())


async def test_constrained_ca_of_another_trust_domain_cannot_forge_our_names(
    mint: Mint, other_mint: Mint
) -> None:
    """Core itself refuses, with both roots trusted: ours are made with name constraints for this."""
    both = mint.authority.bundle.merge(other_mint.authority.bundle)
    thief = forged(other_mint, both)
    async with serving(server_credentials(Watch(Credentials(mint.credentials().svid, both)))) as (
        port,
        handler,
    ):
        await refused(port, thief.channel_credentials())
        assert handler.calls == 0
        honest = Credentials(other_mint.credentials("x").svid, both)
        assert (
            identify(await asked(port, honest.channel_credentials())).spiffe_id.trust_domain == "other.test"
        )
    async with serving(server_credentials(Watch(thief))) as (port, handler):
        await refused(port, Credentials(mint.credentials("payments").svid, both).channel_credentials())
        assert handler.calls == 0


async def test_unconstrained_ca_of_another_trust_domain_passes_core_and_not_the_bundle(mint: Mint) -> None:
    """Why every call's peer is held against the Bundle as well: to core an anchor is an anchor."""
    now = datetime.now(UTC)
    root = forge.ca(begins=now - forge.HOUR, ends=now + forge.HOUR)
    both = mint.authority.bundle.merge(Bundle.parse("other.test", root.pem))
    leaf = forge.leaf(root, begins=now - forge.HOUR, ends=now + forge.HOUR)
    thief = Credentials(Svid.parse(leaf.pem, leaf.key_pem), both)
    async with serving(server_credentials(Watch(Credentials(mint.credentials().svid, both)))) as (port, _):
        identity = identify(await asked(port, thief.channel_credentials()))
    assert str(identity.spiffe_id) == forge.OURS
    with pytest.raises(ChainError, match="no trusted issuer"):
        both.verify_leaf(identity.certificate, now=now)


async def test_enrolment_port_asks_for_no_certificate_and_rotates_too(mint: Mint) -> None:
    watch = Watch(mint.credentials("control-1"))
    async with serving(anonymous_server_credentials(watch)) as (port, _):
        pinned = pinned_channel_credentials(mint.authority.bundle)
        assert await asked(port, pinned, "control-1.mesh.test") == b"nobody"
        watch.set(mint.credentials("control-1"))
        assert await presented(port) == watch.value.svid.leaf
        assert await asked(port, pinned, "control-1.mesh.test") == b"nobody"


async def test_enrolment_port_of_another_root_is_refused(mint: Mint, tmp_path: Path) -> None:
    stranger = Mint(tmp_path / "stranger")
    async with serving(anonymous_server_credentials(Watch(stranger.credentials()))) as (port, handler):
        await refused(port, pinned_channel_credentials(mint.authority.bundle))
        assert handler.calls == 0


async def test_control_is_dialled_by_ip_address(mint: Mint) -> None:
    now = datetime.now(UTC)
    svid = mint.authority.issue(
        mint.authority.control_id, lifetime=forge.HOUR, now=now, ip_addresses=["127.0.0.1"]
    )
    async with (
        serving(anonymous_server_credentials(Watch(Credentials(svid, mint.authority.bundle)))) as (port, _),
        grpc.aio.secure_channel(
            f"127.0.0.1:{port}", pinned_channel_credentials(mint.authority.bundle)
        ) as channel,
    ):
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        assert await method(b"", timeout=LIMIT_S) == b"nobody"


async def test_one_object_serves_one_port_and_says_so_for_a_second(mint: Mint) -> None:
    """A second port would be left behind at the first rotation; this holds core to refusing it."""
    credentials = server_credentials(Watch(mint.credentials()))
    server = grpc.aio.server()
    server.add_secure_port("127.0.0.1:0", credentials)
    with pytest.raises(RuntimeError):
        server.add_secure_port("127.0.0.1:0", credentials)
    await server.stop(None)
