"""Promises of certs/roots.py and files.py: what the authority's folder holds, and what stops a start."""

import json
import stat
from pathlib import Path

import pytest

from hauberk.certs import keys
from hauberk.certs.authority import Authority
from hauberk.certs.errors import AuthorityError, IdentityError, KeyRefused, StoreError
from hauberk.certs.identity import SpiffeId
from tests.certs.forge import HOUR, NOW

ORDERS = SpiffeId.of("mesh.test", "prod/orders")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ca"


@pytest.fixture
def authority(folder: Path) -> Authority:
    return Authority.create(folder, "mesh.test", now=NOW, dns_names=["localhost"])


def test_authority_survives_a_restart(folder: Path, authority: Authority) -> None:
    svid = authority.issue(ORDERS, lifetime=HOUR, now=NOW)
    again = Authority.load(folder)
    assert (again.mesh_id, again.trust_domain) == (authority.mesh_id, "mesh.test")
    assert again.bundle == authority.bundle
    assert again.bundle.verify(svid.chain, now=NOW).spiffe_id == ORDERS
    authority.bundle.verify(again.issue(ORDERS, lifetime=HOUR, now=NOW).chain, now=NOW)


def test_every_authority_has_a_mesh_id_of_its_own(tmp_path: Path) -> None:
    ids = {Authority.create(tmp_path / str(n), "mesh.test", now=NOW).mesh_id for n in range(3)}
    assert len(ids) == 3
    assert all(len(mesh_id) == 32 for mesh_id in ids)


def test_authority_is_not_made_over_another(folder: Path, authority: Authority) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(AuthorityError, match="already"):
        Authority.create(folder, "mesh.test", now=NOW)
    assert sorted(folder.rglob("*")) == before
    assert Authority.load(folder).mesh_id == authority.mesh_id


def test_no_authority_is_said_with_its_remedy(folder: Path) -> None:
    with pytest.raises(AuthorityError, match="hauberk ca init"):
        Authority.load(folder)


@pytest.mark.parametrize("trust_domain", ["Mesh.test", "10.0.0.1", "mesh_1", "", "mesh.test/x"])
def test_trust_domain_that_is_no_dns_name_gets_no_authority(folder: Path, trust_domain: str) -> None:
    with pytest.raises(IdentityError):
        Authority.create(folder, trust_domain, now=NOW)
    assert not folder.exists()


def test_root_key_is_nowhere_on_disk(folder: Path, authority: Authority) -> None:
    (root,) = authority.bundle.anchors["mesh.test"]
    found = [keys.from_pem(path.read_bytes()) for path in folder.rglob("*.key.pem")]
    assert len(found) == 1
    assert found[0].public_key() != root.public_key()


def test_keys_are_0600_in_folders_of_0700(folder: Path, authority: Authority) -> None:
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert len(modes) == 8


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (".", 0o750),
        ("authority.json", 0o640),
        ("r000001", 0o755),
        ("r000001/intermediate.key.pem", 0o604),
        ("r000001/root.pem", 0o644),
    ],
)
def test_looser_modes_stop_the_start_and_name_the_remedy(
    folder: Path, authority: Authority, name: str, mode: int
) -> None:
    (folder / name).chmod(mode)
    with pytest.raises(StoreError, match=r"chmod 0[67]00 "):
        Authority.load(folder)


def test_passphrase_encrypts_the_key_and_is_needed(folder: Path) -> None:
    made = Authority.create(folder, "mesh.test", now=NOW, passphrase=b"correct horse")
    assert b"ENCRYPTED" in (folder / "r000001" / "intermediate.key.pem").read_bytes()
    assert Authority.load(folder, b"correct horse").mesh_id == made.mesh_id
    for wrong in (None, b"battery staple"):
        with pytest.raises(KeyRefused):
            Authority.load(folder, wrong)


def test_passphrase_for_a_key_that_is_not_encrypted_is_refused(folder: Path, authority: Authority) -> None:
    with pytest.raises(KeyRefused, match="not encrypted"):
        Authority.load(folder, b"passphrase")


def damage_ledger(folder: Path, **changes: object) -> None:
    path = folder / "authority.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"trust_domain": "Mesh.test"},
        {"roots": []},
        {"roots": [{"folder": "r000001", "state": "prepared", "since": "2026-11-01T12:00:00+00:00"}]},
        {"roots": [{"folder": "r000001", "state": "sleeping", "since": "2026-11-01T12:00:00+00:00"}]},
        {"roots": [{"folder": "r000001"}]},
        {"roots": None},
        {"dns_names": ["*"]},
    ],
)
def test_damaged_ledger_stops_the_start(
    folder: Path, authority: Authority, changes: dict[str, object]
) -> None:
    damage_ledger(folder, **changes)
    with pytest.raises(AuthorityError):
        Authority.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_unreadable_ledger_stops_the_start(folder: Path, authority: Authority, text: str) -> None:
    (folder / "authority.json").write_text(text)
    with pytest.raises(AuthorityError, match="unreadable"):
        Authority.load(folder)


def test_files_of_another_authority_stop_the_start(
    tmp_path: Path, folder: Path, authority: Authority
) -> None:
    Authority.create(tmp_path / "other", "mesh.test", now=NOW)
    for name in ("intermediate.key.pem", "root.pem"):
        mine, theirs = folder / "r000001" / name, tmp_path / "other" / "r000001" / name
        kept = mine.read_bytes()
        mine.write_bytes(theirs.read_bytes())
        with pytest.raises(AuthorityError, match=r"not the intermediate's|not signed by its root"):
            Authority.load(folder)
        mine.write_bytes(kept)
    assert Authority.load(folder).mesh_id == authority.mesh_id


def test_missing_key_stops_the_start(folder: Path, authority: Authority) -> None:
    (folder / "r000001" / "intermediate.key.pem").unlink()
    with pytest.raises(StoreError, match=r"intermediate.key.pem: no such file"):
        Authority.load(folder)


def test_no_message_and_no_repr_shows_a_key(authority: Authority) -> None:
    assert "PRIVATE" not in repr(authority._active)
    assert "key=" not in repr(authority._active)


def test_unreadable_certificate_is_named(folder: Path, authority: Authority) -> None:
    (folder / "r000001" / "root.pem").write_text("junk")
    with pytest.raises(AuthorityError, match=r"unreadable: .*r000001/root\.pem"):
        Authority.load(folder)


def test_a_copy_is_the_same_authority_under_another_passphrase(tmp_path: Path) -> None:
    original = Authority.create(tmp_path / "ca", "shop.test", now=NOW, passphrase=b"one")
    original.prepare(NOW)
    original.copy_to(tmp_path / "copy", b"two")
    copy = Authority.load(tmp_path / "copy", b"two")
    assert (copy.mesh_id, copy.bundle, copy.roots(NOW)) == (
        original.mesh_id,
        original.bundle,
        original.roots(NOW),
    )
    copy.activate(NOW)
    assert copy.roots(NOW) != original.roots(NOW), "each goes on by itself"
    with pytest.raises(AuthorityError, match="there is an authority already"):
        original.copy_to(tmp_path / "copy", None)


def test_an_authority_that_stands_still_is_not_rolled(tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "ca", "shop.test", now=NOW)
    with Authority.standing_still(tmp_path / "ca") as held:
        with pytest.raises(AuthorityError, match="another process is changing"):
            other.prepare(NOW)
        with (
            pytest.raises(AuthorityError, match="another process is changing"),
            Authority.standing_still(tmp_path / "ca", wait_s=0.05),
        ):
            pass
    other.prepare(NOW)
    assert len(held.roots(NOW)) == 1


@pytest.mark.parametrize("found", [None, b"", b"garbage"])
def test_roots_that_are_lost_or_damaged_are_written_again(
    folder: Path, authority: Authority, found: bytes | None
) -> None:
    pinned = (folder / "roots.pem").read_bytes()
    assert not authority.mend()
    (folder / "roots.pem").unlink()
    if found is not None:
        (folder / "roots.pem").write_bytes(found)
    assert authority.mend()
    assert (folder / "roots.pem").read_bytes() == pinned
    assert stat.S_IMODE((folder / "roots.pem").stat().st_mode) == 0o600


def test_root_of_a_roll_that_was_cut_off_is_not_pinned(folder: Path, authority: Authority) -> None:
    """roots.pem is written before authority.json, so that nobody who pins it lacks a root that signs."""
    pinned, ledger = (folder / "roots.pem").read_bytes(), (folder / "authority.json").read_bytes()
    authority.prepare(NOW)
    (folder / "authority.json").write_bytes(ledger)
    assert Authority.load(folder).mend()
    assert (folder / "roots.pem").read_bytes() == pinned
