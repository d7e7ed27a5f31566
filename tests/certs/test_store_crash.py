"""A crash at any step of a write leaves the old credentials or the new, and the next write heals it."""

import json
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from hauberk.certs import files
from hauberk.certs.errors import StoreError
from hauberk.certs.store import CredentialStore
from tests.certs.conftest import Mint


@pytest.mark.parametrize("generations", [1, 3])
def test_crash_at_any_step_leaves_old_or_new_and_heals(tmp_path: Path, mint: Mint, generations: int) -> None:
    history = CredentialStore(tmp_path / "history")
    for _ in range(generations):
        history.write(mint.credentials())
    for name in ("new", "next"):
        CredentialStore(tmp_path / name).write(mint.credentials())
    (tmp_path / "work").mkdir(mode=0o700)
    command = [sys.executable, "-m", "tests.certs.crash"]
    command += [str(tmp_path / name) for name in ("history", "new", "next", "work")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) > 15
    assert reports[-1]["code"] == 0, "the last one lived"
    assert [left for left, _ in groupby(report["left"] for report in reports)] == ["old", "new"]
    assert {report["healed"] for report in reports} == {"next"}
    for report in reports:
        generations_left = [name for name in report["entries"] if name != "current"]
        assert len(generations_left) <= 3
        assert all(name.startswith("g") for name in generations_left), "no litter"


def test_full_disk_leaves_the_old_credentials_current(
    tmp_path: Path, mint: Mint, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CredentialStore(tmp_path / "state")
    old, new = mint.credentials(), mint.credentials()
    store.write(old)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="no space left on device"):
            store.write(new)
    assert store.load() == old
    store.write(new)
    assert store.load() == new


def test_file_that_appears_while_it_is_written_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "key.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="file exists"):
        files.create(tmp_path / "key.pem", b"secret")
    assert not (tmp_path / "elsewhere").exists()
