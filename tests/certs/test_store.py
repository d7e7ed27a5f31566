"""Promises of certs/store.py: what was written is read back whole, and nothing loose or torn is."""

import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hauberk.certs import files
from hauberk.certs.credentials import Credentials
from hauberk.certs.errors import StoreError
from hauberk.certs.store import CredentialStore
from tests.certs.conftest import Mint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "orders"


@pytest.fixture
def store(folder: Path) -> CredentialStore:
    return CredentialStore(folder)


def test_nothing_written_is_nothing_loaded(store: CredentialStore, folder: Path) -> None:
    assert store.load() is None
    assert not folder.exists()


def test_what_is_written_is_loaded(store: CredentialStore, folder: Path, mint: Mint) -> None:
    mint.roll("prepare")
    credentials = mint.credentials("prod/orders")
    assert store.write(credentials) == folder / "g000001"
    assert CredentialStore(folder).load() == credentials


def test_anchors_keep_their_trust_domain(store: CredentialStore, mint: Mint, other_mint: Mint) -> None:
    mine = mint.credentials()
    credentials = Credentials(mine.svid, mine.bundle.merge(other_mint.authority.bundle))
    store.write(credentials)
    loaded = store.load()
    assert loaded == credentials
    assert loaded is not None
    assert loaded.bundle.anchors == credentials.bundle.anchors


def test_paths_lead_to_the_latest_generation(store: CredentialStore, mint: Mint) -> None:
    store.write(mint.credentials())
    latest = mint.credentials()
    store.write(latest)
    assert store.key_path.read_bytes() == latest.svid.key_pem
    assert store.chain_path.read_bytes() == latest.svid.chain_pem
    assert store.bundle_path.read_bytes() == latest.bundle.pem()


def test_three_generations_are_kept(store: CredentialStore, folder: Path, mint: Mint) -> None:
    for _ in range(5):
        store.write(mint.credentials())
    assert sorted(path.name for path in folder.iterdir()) == ["current", "g000003", "g000004", "g000005"]
    assert (folder / "current").readlink() == Path("g000005")


def test_files_are_0600_and_folders_0700_whatever_the_umask(
    store: CredentialStore, folder: Path, mint: Mint
) -> None:
    before = os.umask(0)
    try:
        store.write(mint.credentials())
        lock = store.lock()
    finally:
        os.umask(before)
    assert lock is not None
    lock.release()
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            expected = 0o700 if path.is_dir() else 0o600
            assert stat.S_IMODE(path.stat().st_mode) == expected, path


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (".", 0o755),
        (".", 0o710),
        ("g000001", 0o750),
        ("g000001/key.pem", 0o640),
        ("g000001/key.pem", 0o604),
        ("g000001/chain.pem", 0o644),
        ("g000001/bundle.pem", 0o622),
        ("g000001/intermediates.pem", 0o660),
        ("g000001/anchors", 0o777),
        ("g000001/anchors/mesh.test", 0o602),
    ],
)
def test_looser_modes_are_refused_with_the_remedy(
    store: CredentialStore, folder: Path, mint: Mint, name: str, mode: int
) -> None:
    store.write(mint.credentials())
    (folder / name).chmod(mode)
    with pytest.raises(StoreError, match=f"has mode {mode:04o}.*: chmod 0[67]00 /") as refused:
        store.load()
    remedy = str(refused.value).rpartition(": ")[2]
    subprocess.run(remedy.split(), check=True)
    assert store.load() is not None


def test_loose_folder_is_not_written_into(store: CredentialStore, folder: Path, mint: Mint) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    with pytest.raises(StoreError, match="chmod 0700"):
        store.write(mint.credentials())
    with pytest.raises(StoreError, match="chmod 0700"):
        store.lock()
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away: run as root")
def test_files_of_another_user_are_refused(store: CredentialStore, folder: Path, mint: Mint) -> None:
    store.write(mint.credentials())
    os.chown(folder / "g000001" / "key.pem", 12345, -1)
    with pytest.raises(StoreError, match="belongs to user 12345"):
        store.load()


@pytest.mark.parametrize(
    "name", ["key.pem", "chain.pem", "bundle.pem", "intermediates.pem", "anchors/mesh.test"]
)
@pytest.mark.parametrize("damage", ["missing", "empty", "junk", "link", "folder", "huge"])
def test_damaged_file_is_refused(
    store: CredentialStore, folder: Path, mint: Mint, name: str, damage: str
) -> None:
    path = store.write(mint.credentials()) / name
    content = path.read_bytes()
    path.unlink()
    match damage:
        case "empty":
            files.create(path, b"")
        case "junk":
            files.create(path, b"junk")
        case "huge":
            files.create(path, content + b"\n" * files.MAX_BYTES)
        case "folder":
            path.mkdir(mode=0o700)
        case "link":
            files.create(folder / "elsewhere", content)
            path.symlink_to(folder / "elsewhere")
    if (name, damage) == ("intermediates.pem", "empty"):
        return  # as good as any: nothing is known below the anchors
    with pytest.raises(StoreError, match="g000001"):
        store.load()


def test_key_of_another_generation_is_refused(store: CredentialStore, mint: Mint) -> None:
    first, second = store.write(mint.credentials()), store.write(mint.credentials())
    (second / "key.pem").write_bytes((first / "key.pem").read_bytes())
    with pytest.raises(StoreError, match="do not belong together"):
        store.load()


def test_bundle_that_differs_from_its_anchors_is_refused(
    store: CredentialStore, mint: Mint, other_mint: Mint
) -> None:
    generation = store.write(mint.credentials())
    (generation / "bundle.pem").write_bytes(other_mint.authority.bundle.pem())
    with pytest.raises(StoreError, match=r"bundle\.pem and anchors differ"):
        store.load()


@pytest.mark.parametrize("target", ["/etc", "../elsewhere", "g000001/../g000001", "key.pem", "g1", "g000009"])
def test_link_that_leads_elsewhere_is_refused(
    store: CredentialStore, folder: Path, mint: Mint, target: str
) -> None:
    store.write(mint.credentials())
    (folder / "current").unlink()
    (folder / "current").symlink_to(target)
    with pytest.raises(StoreError):
        store.load()


def test_expired_credentials_are_loaded_for_their_owner_to_judge(store: CredentialStore, mint: Mint) -> None:
    credentials = mint.credentials(lifetime=timedelta(seconds=1))
    store.write(credentials)
    loaded = store.load()
    assert loaded is not None
    assert loaded.svid.remaining(datetime.now(UTC) + timedelta(minutes=1)) < timedelta(0)


def test_lock_has_one_holder_and_comes_back(store: CredentialStore, folder: Path) -> None:
    first = store.lock()
    assert first is not None
    assert CredentialStore(folder).lock() is None
    first.release()
    first.release()
    with store.lock() or pytest.fail("the lock did not come back"):
        assert store.lock() is None


def test_lock_ends_with_the_process_that_held_it(store: CredentialStore, folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hauberk.certs.store import CredentialStore\n"
        f"lock = CredentialStore(Path({str(folder)!r})).lock()\n"
        "print(lock is not None, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        assert store.lock() is None
        holder.kill()
    lock = store.lock()
    assert lock is not None
    lock.release()
