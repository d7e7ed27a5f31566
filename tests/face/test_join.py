"""How a process becomes a member, and what keeps it out."""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hauberk.certs.authority import Authority
from hauberk.certs.store import CredentialStore
from hauberk.entry import join
from hauberk.errors import JoinFailed, MeshError, SettingsError
from tests.face.control import Control, get_product, tasks_of_the_face


async def test_a_join_token_makes_a_member(control: Control) -> None:
    async with control.join("gateway") as mesh:
        assert str(mesh.id) == "spiffe://shop.test/gateway"
        assert mesh.credentials.value.svid.lifetime > timedelta(minutes=59)


async def test_a_join_token_comes_through_an_inherited_pipe(control: Control) -> None:
    token = control.invite("gateway").read_bytes()
    receiver, sender = os.pipe()
    os.write(sender, token)
    os.close(sender)
    async with join(control.settings("gateway", join_token_fd=receiver)) as mesh:
        assert mesh.id.name == "gateway"
    with pytest.raises(OSError, match=r"Bad file descriptor"):
        os.fstat(receiver)


async def test_members_call_each_other_by_contract(control: Control) -> None:
    await control.catalog()
    gateway = await control.member("gateway")
    assert (await get_product(gateway, "A-7")).sku == "A-7"


async def test_state_on_disk_needs_neither_token_nor_control_plane(control: Control) -> None:
    async with control.join("gateway") as mesh:
        serial = mesh.credentials.value.svid.leaf.serial_number
    settings = control.settings("gateway")
    await control.stop()
    async with join(settings) as mesh:
        assert mesh.credentials.value.svid.leaf.serial_number == serial


async def test_expired_state_is_replaced_with_the_token(control: Control) -> None:
    async with control.join("gateway") as mesh:
        old = mesh.credentials.value
    later = datetime.now(UTC) + timedelta(hours=2)
    with pytest.raises(JoinFailed, match=r"svid of spiffe://shop.test/gateway expired"):
        await _enter(join(control.settings("gateway"), clock=lambda: later))
    expire(control, "gateway")
    async with control.join("gateway") as mesh:
        assert mesh.credentials.value.svid.leaf.serial_number != old.svid.leaf.serial_number


async def test_state_of_a_mesh_that_was_made_anew_is_replaced(control: Control, tmp_path: Path) -> None:
    async with Control(tmp_path / "other") as other, other.join("gateway") as mesh:
        foreign = mesh.settings.state_dir
    async with control.join("gateway", state_dir=foreign) as mesh:
        assert mesh.credentials.value.bundle == control.authority.bundle


async def test_nothing_is_left_behind(control: Control) -> None:
    async with control.join("gateway") as mesh:
        server = mesh.server()
        await server.start()
        await mesh.control.channel_ready()
        mesh.direct_channel("catalog", "127.0.0.1:1")
        assert tasks_of_the_face()
    assert not tasks_of_the_face()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*server.address.split(":"))
    lock = CredentialStore(mesh.settings.state_dir).lock()
    assert lock is not None
    lock.release()


async def test_what_the_block_raises_comes_out_as_it_is(control: Control) -> None:
    with pytest.raises(KeyError):
        async with control.join("gateway"):
            raise KeyError("mine")


@pytest.mark.parametrize("outer", [asyncio.CancelledError, TimeoutError])
async def test_cancelling_the_block_leaves_it(control: Control, outer: type[BaseException]) -> None:
    async def stay() -> None:
        async with control.join("gateway"):
            await asyncio.Event().wait()

    if outer is TimeoutError:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await stay()
        return
    task = asyncio.ensure_future(stay())
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_reused_token(control: Control) -> None:
    token = control.invite("gateway")
    async with join(control.settings("gateway", join_token_file=token)):
        pass
    elsewhere = control.settings("gateway", join_token_file=token, state_dir=control.folder / "elsewhere")
    with pytest.raises(
        JoinFailed, match=r"join token refused at 127.*; make a new one: hauberk invite gateway"
    ):
        await _enter(join(elsewhere))


async def test_a_token_of_somebody_else(control: Control) -> None:
    token = control.invite("catalog")
    with pytest.raises(JoinFailed, match=r"the join token is for catalog, and HAUBERK_NAME is gateway"):
        await _enter(join(control.settings("gateway", join_token_file=token)))


async def test_no_token_and_no_state(control: Control) -> None:
    with pytest.raises(JoinFailed, match=r"nothing is in .*make one with `hauberk invite gateway`"):
        await _enter(join(control.settings("gateway")))


async def test_a_state_folder_of_somebody_else(control: Control) -> None:
    async with control.join("catalog") as mesh:
        folder = mesh.settings.state_dir
    with pytest.raises(JoinFailed, match=r"belongs to spiffe://shop.test/catalog"):
        await _enter(control.join("gateway", state_dir=folder))


async def test_a_state_folder_that_others_could_read(control: Control) -> None:
    async with control.join("gateway") as mesh:
        folder = mesh.settings.state_dir
    folder.chmod(0o755)
    with pytest.raises(JoinFailed, match=rf"chmod 0700 {folder}"):
        await _enter(join(control.settings("gateway")))


async def test_an_enrolment_port_with_another_certificate(control: Control, tmp_path: Path) -> None:
    stranger = Authority.create(tmp_path / "ca", control.trust_domain, now=datetime.now(UTC))
    roots = tmp_path / "roots.pem"
    roots.write_bytes(stranger.bundle.pem())
    with pytest.raises(
        JoinFailed, match=r"cannot prove by .*roots.pem .HAUBERK_ROOTS. to be the control plane"
    ):
        await _enter(control.join("gateway", roots=roots))


async def test_an_enrolment_port_where_nobody_listens(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hauberk.joining.REACH_S", 0.0)
    with pytest.raises(
        JoinFailed, match=r"no enrolment at 127.0.0.1:1 .* is the control plane running there?"
    ):
        await _enter(control.join("gateway", enrolment="127.0.0.1:1"))


@pytest.mark.parametrize(
    ("roots", "message"),
    [(None, "cannot read .*missing.pem"), (b"", "no usable roots"), (b"junk", "no usable roots")],
)
async def test_roots_that_cannot_be_used(
    control: Control, tmp_path: Path, roots: bytes | None, message: str
) -> None:
    file = tmp_path / "missing.pem"
    if roots is not None:
        file.write_bytes(roots)
    with pytest.raises(SettingsError, match=f"HAUBERK_ROOTS: .*{message}"):
        await _enter(control.join("gateway", roots=file))


async def test_a_token_file_that_is_not_there_is_named(control: Control, tmp_path: Path) -> None:
    with pytest.raises(JoinFailed, match=r"HAUBERK_JOIN_TOKEN_FILE: .*/nowhere is not there"):
        await _enter(join(control.settings("gateway", join_token_file=tmp_path / "nowhere")))


async def test_another_trust_domain_than_expected(control: Control) -> None:
    with pytest.raises(SettingsError, match=r"of shop\.test, but HAUBERK_TRUST_DOMAIN is other\.test"):
        await _enter(control.join("gateway", trust_domain="other.test"))


@pytest.mark.parametrize("text", ["not a token", "hbk1.short"])
async def test_a_token_file_without_a_token(control: Control, tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"HAUBERK_JOIN_TOKEN_FILE: .* holds no join token"):
        await _enter(join(control.settings("gateway", join_token_file=file)))


async def test_every_refusal_is_one_line(control: Control) -> None:
    with pytest.raises(MeshError) as caught:
        await _enter(join(control.settings("gateway")))
    assert "\n" not in str(caught.value)


def expire(control: Control, name: str) -> None:
    """Replace the state of `name` by an SVID that is over."""
    store = CredentialStore(control.settings(name).state_dir)
    held = store.load()
    assert held is not None
    old = Authority.load(control.folder / "state" / "ca")
    svid = old.issue(
        held.svid.spiffe_id, lifetime=timedelta(seconds=1), now=datetime.now(UTC) - timedelta(seconds=5)
    )
    store.write(type(held)(svid, held.bundle))


async def _enter(joining: join) -> None:
    async with joining:
        raise AssertionError("joined")
