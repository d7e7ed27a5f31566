"""`hauberk restore`: the mesh of the backup, whole; and nothing at all is changed where it is refused."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hauberk.certs import files
from hauberk.certs.authority import Authority
from hauberk.certs.clock import utc_now
from hauberk.certs.errors import TokenUnknown
from hauberk.certs.identity import SpiffeId
from hauberk.cli import archive
from hauberk.cli.exchange import Exchange
from hauberk.services.control.errors import NotYet
from tests.cli.saved import HOUR, MESH, TRUST_DOMAIN, Saved, read, refused, write


@pytest.fixture
def mesh(tmp_path: Path) -> Saved:
    return Saved.make(tmp_path / "mesh")


@contextlib.contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    def content() -> dict[str, bytes | None]:
        return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}

    before = content()
    yield
    assert content() == before


def lose(mesh: Saved) -> None:
    shutil.rmtree(mesh.state.folder)


def restored(mesh: Saved, backup: Path, *arguments: str) -> dict[str, object]:
    done = mesh.run("restore", str(backup), "--json", *arguments)
    assert done.exit_code == 0, done.output
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_what_was_lost_is_there_again(mesh: Saved) -> None:
    mesh.revoke("former")
    roots, backup = mesh.fingerprints(), mesh.backup()
    mesh_id = Authority.load(mesh.state.ca).mesh_id
    lose(mesh)
    assert restored(mesh, backup)["revoked"] == ["spiffe://saved.test/former"]
    assert mesh.fingerprints() == roots
    assert mesh.read() == ["first"]
    with contextlib.closing(mesh.store()) as store:
        store.claim(mesh_id, "saved.test", new=False)
        assert store.revoked() == {"spiffe://saved.test/former"}
    assert mesh.state.had_a_store.read_text() == f"{mesh_id}\n"
    assert mesh.state.control_ports.read_text() == '{"mesh":2,"enrolment":1}'
    assert {path.name for path in mesh.state.folder.iterdir()} == {"ca", "control", "databases"}


def test_everything_is_private(mesh: Saved) -> None:
    backup = mesh.backup()
    lose(mesh)
    before = os.umask(0)
    try:
        restored(mesh, backup)
    finally:
        os.umask(before)
    for path in [mesh.state.folder, *mesh.state.folder.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_no_token_of_before_admits_anybody(mesh: Saved) -> None:
    digest = mesh.invite("idle")
    backup = mesh.backup()
    restored(mesh, backup, "--force")
    with contextlib.closing(mesh.store()) as store, pytest.raises(TokenUnknown):
        store.invited(digest, utc_now())


def test_mesh_file_comes_back_where_there_is_none_and_stays_where_there_is_one(mesh: Saved) -> None:
    backup = mesh.backup()
    lose(mesh)
    mesh.state.mesh_file.unlink()
    restored(mesh, backup)
    assert mesh.state.mesh_file.read_text() == MESH
    mesh.state.mesh_file.write_text(MESH + "replicas = 2\n")
    restored(mesh, backup, "--force")
    assert mesh.state.mesh_file.read_text() == MESH + "replicas = 2\n"


def test_a_mesh_that_is_here_is_moved_aside_only_if_told(mesh: Saved) -> None:
    backup = mesh.backup()
    mesh.write("second")
    with unchanged(mesh.folder):
        refused(mesh.run("restore", str(backup)), "there is a mesh here already", "--force")
    answer = restored(mesh, backup, "--force")
    assert mesh.read() == ["first"]
    assert read(Path(str(answer["replaced"])) / "databases" / "idle.db") == ["first", "second"]


def test_a_database_alone_is_in_the_way_too(mesh: Saved) -> None:
    backup = mesh.backup()
    shutil.rmtree(mesh.state.ca)
    mesh.state.control_database.unlink()
    refused(mesh.run("restore", str(backup)), "databases/idle.db", "--force")


def test_what_the_backup_cannot_know_is_listed(mesh: Saved) -> None:
    mesh.revoke("former")
    backup = mesh.backup()
    mesh.revoke("stolen")
    (first,) = mesh.fingerprints()
    assert mesh.run("ca", "prepare").exit_code == 0
    (lost,) = set(mesh.fingerprints()) - {first}
    done = mesh.run("restore", str(backup), "--force")
    assert "revoked then: spiffe://saved.test/former\n" in done.stderr
    assert "revoked since, and still: stolen\n" in done.stderr
    assert "join tokens of before are all refused" in done.stderr
    assert "is good until it ends" in done.stderr
    assert f"root {lost}" in done.stderr
    assert first not in done.stderr
    assert done.stdout.endswith("next: hauberk up\n")


def test_who_was_revoked_since_is_refused_still(mesh: Saved) -> None:
    mesh.invite("stolen")
    backup = mesh.backup()
    mesh.revoke("stolen")
    done = mesh.run("restore", str(backup), "--force", "--json")
    answer = json.loads(done.stdout)
    assert (answer["still_revoked"], answer["revoke_again"]) == (["stolen"], [])
    stolen = SpiffeId.of(TRUST_DOMAIN, "stolen")
    with contextlib.closing(mesh.store()) as store:
        assert store.revoked() == {str(stolen)}
        assert store.bindings() == {}
        with pytest.raises(NotYet):
            store.reinstate(stolen, utc_now(), lifetime=HOUR)


def test_who_was_revoked_since_is_listed_where_the_backup_has_no_store(mesh: Saved) -> None:
    backup = mesh.backup("--plain-keys", "--without", "control")
    mesh.revoke("stolen")
    done = mesh.run("restore", str(backup), "--force")
    assert "  hauberk revoke stolen\n" in done.stderr
    assert "and still" not in done.stderr


def test_what_was_left_out_is_said(mesh: Saved) -> None:
    backup = mesh.backup("--plain-keys", "--without", "idle")
    lose(mesh)
    done = mesh.run("restore", str(backup))
    assert "not in the backup, bring them back first: idle" in done.stderr
    assert not mesh.idle.exists()


def test_keys_are_written_as_mesh_toml_asks(mesh: Saved, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("of the backup\n")
    roots = mesh.fingerprints()
    backup = mesh.backup("--passphrase-file", str(tmp_path / "words"))
    lose(mesh)
    refused(mesh.run("restore", str(backup)), "the CA's keys in it are encrypted", "--passphrase-file")
    (tmp_path / "others").write_text("others\n")
    refused(
        mesh.run("restore", str(backup), "--passphrase-file", str(tmp_path / "others")),
        "passphrase is another",
    )
    assert not mesh.state.folder.exists(), "a refusal leaves nothing"

    (mesh.folder / "own").write_text("of the mesh\n")
    mesh.state.mesh_file.write_text(MESH + '[control]\nca_passphrase_file = "own"\n')
    restored(mesh, backup, "--passphrase-file", str(tmp_path / "words"))
    assert mesh.fingerprints() == roots
    assert Authority.load(mesh.state.ca, b"of the mesh")


def test_a_running_mesh_is_left_alone(mesh: Saved) -> None:
    backup = mesh.backup()
    claim = mesh.state.claim()
    try:
        with unchanged(mesh.folder):
            refused(mesh.run("restore", str(backup), "--force"), "runs this mesh already", "stop that one")
    finally:
        os.close(claim)
    lock = files.lock(mesh.state.folder / "control" / "lock")
    assert lock
    with lock:  # as a control plane that was started by hand
        refused(mesh.run("restore", str(backup), "--force"), "a control plane runs in", "stop it first")


def test_another_trust_domain_is_refused(mesh: Saved) -> None:
    backup = mesh.backup()
    lose(mesh)
    mesh.state.mesh_file.write_text(MESH.replace("saved.test", "other.test"))
    refused(mesh.run("restore", str(backup)), "is of mesh saved.test, ", "a folder of its own")
    assert not mesh.state.folder.exists()


def test_a_store_and_a_ca_that_do_not_belong_together_are_refused(mesh: Saved, tmp_path: Path) -> None:
    other = Saved.make(tmp_path / "other")
    for each, name in ((mesh, "a"), (other, "b")):
        parts = tmp_path / name
        parts.mkdir(mode=0o700)
        with archive.reading(each.backup()) as opened:
            opened.extract(parts)
            manifest = opened.manifest
    shutil.copy(tmp_path / "a" / "control" / "control.db", tmp_path / "b" / "control" / "control.db")
    names = [part.name for part in manifest.parts]
    forged = msgspec.structs.replace(
        manifest, parts=tuple(archive.measured(tmp_path / "b", name) for name in names)
    )
    archive.write(tmp_path / "forged", forged, tmp_path / "b")
    lose(mesh)
    refused(mesh.run("restore", str(tmp_path / "forged")), "its store is of mesh ")


def test_a_damaged_backup_changes_nothing(mesh: Saved) -> None:
    backup = mesh.backup()
    content = bytearray(backup.read_bytes())
    content[-5000] ^= 1
    backup.write_bytes(content)
    with unchanged(mesh.folder):
        refused(mesh.run("restore", str(backup), "--force"), "a damaged backup")


def test_a_move_that_fails_undoes_those_before_it(mesh: Saved) -> None:
    mesh.write("second")
    fresh = mesh.state.folder / "incoming"
    (fresh / "ca").mkdir(parents=True)
    (fresh / "databases").mkdir()
    exchange, nowhere = Exchange(mesh.state, now=utc_now()), mesh.folder / "nowhere" / "x"
    with unchanged(mesh.folder), pytest.raises(OSError, match="No such file"):
        exchange.run(fresh, [(nowhere, mesh.folder / "x")])


def test_a_restore_that_was_killed_half_way_keeps_the_mesh_from_starting_until_it_is_done_again(
    mesh: Saved,
) -> None:
    """Else `up` would make a new CA where the old one has gone and the restored one has not come yet."""
    backup = mesh.backup()
    mesh.state.ca.rename(mesh.state.folder / "replaced-then")
    mesh.state.restoring.mkdir()
    for command in (["ca", "init"], ["up"]):
        refused(mesh.run(*command), "a restore was ended half-way", "hauberk restore FILE")
    restored(mesh, backup)
    assert not mesh.state.restoring.exists()
    assert mesh.read() == ["first"]


def test_a_second_try_that_fails_leaves_the_mark_of_the_first(mesh: Saved) -> None:
    """It has changed nothing, so half a mesh is what is there still."""
    mesh.state.ca.rename(mesh.state.folder / "replaced-then")
    (mesh.state.restoring / "ca").mkdir(parents=True)
    fresh = mesh.state.folder / "incoming"
    (fresh / "databases").mkdir(parents=True)
    exchange, nowhere = Exchange(mesh.state, now=utc_now()), mesh.folder / "nowhere" / "x"
    with pytest.raises(OSError, match="No such file"):
        exchange.run(fresh, [(nowhere, mesh.folder / "x")])
    refused(mesh.run("up"), "a restore was ended half-way", "hauberk restore FILE")
    assert mesh.read() == ["first"]


def test_a_database_elsewhere_goes_back_there(tmp_path: Path) -> None:
    text = MESH + f'env = {{ DATABASE_URL = "sqlite:///{tmp_path}/own.db" }}\n'
    mesh = Saved.make(tmp_path / "mesh", text)
    mesh.idle.unlink()
    write(tmp_path / "own.db", "elsewhere")
    backup = mesh.backup()
    write(tmp_path / "own.db", "since")
    restored(mesh, backup, "--force")
    assert read(tmp_path / "own.db") == ["elsewhere"]
    assert not mesh.idle.exists()
    (aside,) = tmp_path.glob("own.db.replaced-*Z")
    assert read(aside) == ["elsewhere", "since"]


def test_a_database_that_mesh_toml_keeps_elsewhere_now_is_refused(mesh: Saved) -> None:
    backup = mesh.backup()
    lose(mesh)
    mesh.state.mesh_file.write_text(MESH + 'env = { DATABASE_URL = "postgresql://127.0.0.1:1/idle" }\n')
    refused(
        mesh.run("restore", str(backup)), "the backup has databases/idle.db, a file of SQLite, and mesh.toml"
    )


def test_a_folder_that_is_not_there_is_named(mesh: Saved, tmp_path: Path) -> None:
    backup = mesh.backup()
    lost = Saved(type(mesh.state).beside(tmp_path / "nowhere" / "mesh.toml"))
    refused(lost.run("restore", str(backup)), "there is no folder")
