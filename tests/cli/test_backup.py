"""`hauberk backup`: what it refuses, what goes into the file and what does not, how it is written."""

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from hauberk.certs import files
from hauberk.certs.authority import Authority
from hauberk.certs.errors import KeyRefused
from hauberk.cli import archive
from tests.cli.processes import until
from tests.cli.saved import MESH, Saved, refused, write
from tests.mesh.running import COMMAND


@pytest.fixture
def mesh(tmp_path: Path) -> Saved:
    return Saved.make(tmp_path / "mesh")


@pytest.fixture
def target(tmp_path: Path) -> str:
    return str(tmp_path / "backup")


def extracted(backup: Path, to: Path) -> Path:
    to.mkdir(mode=0o700)
    with archive.reading(backup) as opened:
        opened.extract(to)
    return to


def passphrase(folder: Path, text: str) -> str:
    (folder / text).write_text(f"{text}\n")
    return str(folder / text)


def test_scripts_are_told_what_is_in_it(mesh: Saved, target: str) -> None:
    mesh.revoke("former")
    done = mesh.run("backup", target, "--plain-keys", "--json")
    answer = json.loads(done.stdout)
    assert answer["parts"] == [
        "ca/authority.json",
        *(f"ca/r000001/{name}.pem" for name in ("intermediate.key", "intermediate", "root")),
        "ca/roots.pem",
        "ca/store",
        "control/control.db",
        "control/ports.json",
        "databases/idle.db",
        "mesh.toml",
    ]
    assert answer["bytes"] == Path(target).stat().st_size
    assert (answer["keys"], answer["trust_domain"], answer["without"]) == ("plain", "saved.test", [])
    assert "writers were held up for" in done.stderr
    with archive.reading(Path(target)) as opened:
        assert opened.manifest.revoked == ("spiffe://saved.test/former",)


def test_plain_keys_need_a_word(mesh: Saved, target: str) -> None:
    refused(mesh.run("backup", target), "the CA's keys are not encrypted", "--passphrase-file FILE")
    assert not Path(target).exists()


def test_keys_are_encrypted_with_the_given_passphrase(mesh: Saved, target: str, tmp_path: Path) -> None:
    done = mesh.run("backup", target, "--passphrase-file", passphrase(tmp_path, "long-words"))
    assert done.exit_code == 0, done.output
    assert b"BEGIN PRIVATE KEY" not in Path(target).read_bytes()
    ca = extracted(Path(target), tmp_path / "out") / "ca"
    assert Authority.load(ca, b"long-words").bundle == Authority.load(mesh.state.ca).bundle
    with pytest.raises(KeyRefused):
        Authority.load(ca, b"other-words")


def test_keys_that_lie_encrypted_stay_so(tmp_path: Path, target: str) -> None:
    (tmp_path / "mesh").mkdir()
    passphrase(tmp_path / "mesh", "secret")
    mesh = Saved.make(tmp_path / "mesh", MESH + '[control]\nca_passphrase_file = "secret"\n')
    assert mesh.run("backup", target).exit_code == 0
    assert b"BEGIN PRIVATE KEY" not in Path(target).read_bytes()
    assert (
        Authority.load(extracted(Path(target), tmp_path / "out") / "ca", b"secret").trust_domain
        == "saved.test"
    )


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_an_unusable_passphrase_file_is_named(
    mesh: Saved, target: str, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "words").write_text(content)
    refused(mesh.run("backup", target, "--passphrase-file", str(tmp_path / "words")), "--passphrase-file")


def test_no_join_token_is_in_it(mesh: Saved, target: str, tmp_path: Path) -> None:
    mesh.invite("idle")
    assert mesh.run("backup", target, "--plain-keys").exit_code == 0
    copied = extracted(Path(target), tmp_path / "out") / "control" / "control.db"
    with contextlib.closing(sqlite3.connect(copied)) as store:
        assert store.execute("SELECT count(*) FROM join_tokens").fetchone() == (0,)
        assert store.execute("SELECT count(*) FROM bindings").fetchone() == (1,)
    with contextlib.closing(sqlite3.connect(mesh.state.control_database)) as store:
        assert store.execute("SELECT count(*) FROM join_tokens").fetchone() == (1,), "the mesh keeps its own"


def test_a_file_that_is_there_is_replaced_only_if_told(mesh: Saved, target: str) -> None:
    Path(target).write_text("precious")
    refused(mesh.run("backup", target, "--plain-keys"), "is there already", "--force")
    assert Path(target).read_text() == "precious"
    assert mesh.run("backup", target, "--plain-keys", "--force").exit_code == 0
    assert Path(target).stat().st_mode & 0o777 == 0o600


def test_nothing_is_left_beside_the_file(mesh: Saved, tmp_path: Path, target: str) -> None:
    (mesh.state.databases / "bad.db").write_text("no database" * 100)
    refused(mesh.run("backup", target, "--plain-keys"), "bad.db: file is not a database", "--without NAME")
    assert mesh.run("backup", target, "--plain-keys", "--without", "bad").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "mesh"]


ENDED = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 1, signal.SIGKILL: -9}


@pytest.mark.parametrize("number", ENDED)
def test_a_backup_that_is_ended_is_no_backup(
    mesh: Saved, tmp_path: Path, target: str, number: signal.Signals
) -> None:
    """Only what is killed outright leaves its folder of copies, whose name begins with a dot."""
    with contextlib.closing(sqlite3.connect(mesh.idle, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")  # so that it waits, with its folder made
        ours = subprocess.Popen(
            [*COMMAND, "backup", target, "--plain-keys"], cwd=mesh.folder, stderr=subprocess.PIPE
        )
        until(lambda: bool(list(tmp_path.glob(".backup.*/parts"))))
        ours.send_signal(number)
        ours.communicate(timeout=20)
    assert ours.returncode == ENDED[number]
    assert bool(list(tmp_path.glob(".backup.*"))) is (number == signal.SIGKILL)
    assert not Path(target).exists()
    assert mesh.backup().exists()


@pytest.mark.parametrize(
    ("size", "what"), [(50_000, "control.db: disk I/O error"), (90_000, "backup: file too large")]
)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    mesh: Saved, tmp_path: Path, target: str, size: int, what: str
) -> None:
    """A limit on the size of files is refused by the system in the same place."""
    limited = ["prlimit", f"--fsize={size}", *COMMAND, "backup", target, "--plain-keys"]
    if shutil.which(limited[0]) is None:
        pytest.skip("no prlimit here; apt-get install util-linux")
    done = subprocess.run(limited, cwd=mesh.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert what in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mesh"]


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("mesh", "is a folder"),
        ("nowhere/backup", "there is no folder"),
        ("mesh/.hauberk/x", "lies in what it is a backup of"),
    ],
)
def test_a_place_where_no_backup_can_be_is_named(mesh: Saved, tmp_path: Path, file: str, what: str) -> None:
    refused(mesh.run("backup", str(tmp_path / file), "--plain-keys"), what)


def test_a_folder_without_a_mesh_is_named(tmp_path: Path, mesh: Saved, target: str) -> None:
    files.remove_folder(mesh.state.ca)
    refused(mesh.run("backup", target, "--plain-keys"), "there is no mesh to save", "--mesh FILE")


def test_a_store_of_another_mesh_is_not_saved(mesh: Saved, target: str, tmp_path: Path) -> None:
    other = Saved.make(tmp_path / "other")
    mesh.state.control_database.write_bytes(other.state.control_database.read_bytes())
    refused(mesh.run("backup", target, "--plain-keys"), "the store is of mesh ", "belongs to this CA")


def test_a_store_that_is_lost_is_not_passed_over(mesh: Saved, target: str) -> None:
    mesh.state.control_database.unlink()
    refused(mesh.run("backup", target, "--plain-keys"), "the control plane's store is missing")


def test_a_mesh_that_never_ran_is_saved_without_a_store(mesh: Saved, target: str) -> None:
    mesh.state.control_database.unlink()
    mesh.state.had_a_store.unlink()
    assert (
        "control/control.db"
        not in json.loads(mesh.run("backup", target, "--plain-keys", "--json").stdout)["parts"]
    )


def test_a_roll_that_goes_on_is_waited_for_and_named(mesh: Saved, target: str) -> None:
    lock = files.lock(mesh.state.ca / "lock")
    assert lock
    with lock:
        refused(mesh.run("backup", target, "--plain-keys"), "another process is changing this authority")


def test_a_database_elsewhere_is_saved_under_its_workloads_name(tmp_path: Path, target: str) -> None:
    text = MESH + f'env = {{ DATABASE_URL = "sqlite:///{tmp_path}/own.db" }}\n'
    mesh = Saved.make(tmp_path / "mesh", text)
    mesh.idle.unlink()
    write(tmp_path / "own.db", "elsewhere")
    assert (
        "databases/idle.db"
        in json.loads(mesh.run("backup", target, "--plain-keys", "--json").stdout)["parts"]
    )


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("mysql://user:secret@nowhere/idle", "the mysql database of idle cannot be saved by hauberk"),
        ("postgresql://user:secret@127.0.0.1:1/idle", "the postgresql database of idle: connection"),
        ("no url", "[workloads.idle] env: DATABASE_URL is no database url"),
    ],
)
def test_a_database_that_cannot_be_saved_is_never_left_out_silently(
    tmp_path: Path, target: str, url: str, what: str
) -> None:
    mesh = Saved.make(tmp_path / "mesh", MESH + f'env = {{ DATABASE_URL = "{url}" }}\n')
    done = mesh.run("backup", target, "--plain-keys")
    refused(done, what)
    assert "secret" not in done.output


def test_pg_dump_that_is_not_there_is_named(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = Saved.make(tmp_path / "mesh", MESH + 'env = { DATABASE_URL = "postgresql://127.0.0.1:1/idle" }\n')
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(mesh.run("backup", target, "--plain-keys"), "idle needs pg_dump, which is not", "--without idle")


def test_what_is_left_out_stands_in_the_backup(tmp_path: Path, target: str) -> None:
    mesh = Saved.make(tmp_path / "mesh", MESH + 'env = { DATABASE_URL = "postgresql://127.0.0.1:1/idle" }\n')
    done = mesh.run("backup", target, "--plain-keys", "--without", "idle")
    assert done.exit_code == 0, done.output
    assert "not in it, save them by their own tools: idle" in done.stderr
    with archive.reading(Path(target)) as opened:
        assert opened.manifest.without == ("idle",)
        assert not opened.manifest.having("postgresql/")


def test_a_name_that_has_no_database_is_no_reason_to_leave_one_out(mesh: Saved, target: str) -> None:
    refused(mesh.run("backup", target, "--plain-keys", "--without", "idel"), "--without idel: nobody")
