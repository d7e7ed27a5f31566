"""Whom the handshake keeps out: no method runs, and our client says why."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc

from hauberk.certs import keys, pem, profile
from hauberk.certs.authority import Authority
from hauberk.certs.credentials import Credentials, pinned_channel_credentials
from hauberk.certs.identity import SpiffeId
from hauberk.certs.roots import RootFolder
from hauberk.certs.svid import Svid
from hauberk.certs.watch import Watch
from hauberk.interceptors.peer import Trust
from tests.face.town import TRUST_DOMAIN, Town, echo, refused


async def test_a_member_is_let_in(town: Town) -> None:
    assert await echo(town.channel(await town.serve())) == b"hello"
    assert town.lab.ran == 1


async def test_no_client_certificate(town: Town) -> None:
    address = await town.serve()
    async with grpc.aio.secure_channel(
        address,
        pinned_channel_credentials(town.authority.bundle),
        options=[("grpc.ssl_target_name_override", f"server.{TRUST_DOMAIN}")],
    ) as channel:
        error = await refused(channel)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert town.lab.ran == 0


async def test_plaintext(town: Town) -> None:
    address = await town.serve()
    async with grpc.aio.insecure_channel(address) as channel:
        error = await refused(channel)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert town.lab.ran == 0


async def test_a_server_that_speaks_no_tls(town: Town) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as plain:
        target = f"127.0.0.1:{plain.sockets[0].getsockname()[1]}"
        error = await refused(town.channel(target))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert f"its clock is wrong, or it speaks no TLS: run `hauberk doctor {target}`" in (
        error.details() or ""
    )


async def test_expired_svid(town: Town) -> None:
    address = await town.serve()
    expired = town.credentials("gateway", lifetime=timedelta(minutes=1), ago=timedelta(hours=1))
    error = await refused(town.channel(address, expired))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert f"our own svid expired 59 min ago (spiffe://{TRUST_DOMAIN}/gateway)" in (error.details() or "")
    assert town.lab.ran == 0


async def test_svid_of_a_clock_that_is_ahead(town: Town) -> None:
    address = await town.serve()
    early = town.credentials("gateway", ago=-timedelta(hours=3))
    error = await refused(town.channel(address, early))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "our own svid is not valid for another 3 h" in (error.details() or "")
    assert town.lab.ran == 0


async def test_another_authority(town: Town, tmp_path: Path) -> None:
    """Same trust domain, same names, other keys."""
    address = await town.serve()
    stranger = Authority.create(tmp_path / "other", TRUST_DOMAIN, now=datetime.now(UTC))
    svid = stranger.issue(
        SpiffeId.of(TRUST_DOMAIN, "gateway"), lifetime=timedelta(hours=1), now=datetime.now(UTC)
    )
    error = await refused(town.channel(address, Credentials(svid, town.authority.bundle)))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "our own svid does not stand under our own bundle" in (error.details() or "")
    assert town.lab.ran == 0
    error = await refused(town.channel(address, Credentials(svid, stranger.bundle)))
    assert "shows a certificate that expired or that we have no root for" in (error.details() or "")
    assert town.lab.ran == 0


async def test_a_server_that_refuses_us_for_reasons_of_its_own(town: Town, tmp_path: Path) -> None:
    """Nothing is wrong with what we know: only the server can tell, or doctor."""
    stranger = Authority.create(tmp_path / "other", TRUST_DOMAIN, now=datetime.now(UTC))
    held = town.credentials("server")
    address = await town.serve(credentials=Watch(Credentials(held.svid, stranger.bundle)))
    error = await refused(town.channel(address))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert f"hauberk doctor {address}" in (error.details() or "")
    assert town.lab.ran == 0


async def test_another_trust_domain_cannot_forge_our_names(town: Town, tmp_path: Path) -> None:
    """Both roots are trusted; the name constraints of each keep it to its own names."""
    other = Authority.create(tmp_path / "other", "other.test", now=datetime.now(UTC))
    both = town.authority.bundle.merge(other.bundle)
    town.trust.set(Trust(both))
    address = await town.serve(credentials=Watch(Credentials(town.credentials("server").svid, both)))
    forged = Credentials(_forged(tmp_path / "other", "gateway"), both)
    error = await refused(town.channel(address, forged))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "our own svid does not stand under our own bundle" in (error.details() or "")
    assert town.lab.ran == 0


async def test_a_server_with_another_name(town: Town) -> None:
    address = await town.serve("payments")
    error = await refused(town.channel(address, server="orders"))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert f"the server at {address} is not spiffe://{TRUST_DOMAIN}/orders" in (error.details() or "")
    assert town.lab.ran == 0


async def test_nobody_there(town: Town) -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as free:
        port = free.sockets[0].getsockname()[1]
    error = await refused(town.channel(f"127.0.0.1:{port}"))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "Connection refused" in (error.details() or "")
    assert "certificate" not in (error.details() or "")


def _forged(ca_folder: Path, name: str) -> Svid:
    """An SVID in our trust domain, signed by the authority of another, which has to be made to do so."""
    signer = RootFolder(ca_folder).load(None).signers[0]
    key = keys.generate()
    leaf = profile.leaf(
        key.public_key(),
        SpiffeId.of(TRUST_DOMAIN, name),
        issuer=signer.intermediate,
        issuer_key=signer.key,
        now=datetime.now(UTC),
        lifetime=timedelta(hours=1),
    )
    return Svid.parse(pem.write((leaf, signer.intermediate)), keys.to_pem(key))
