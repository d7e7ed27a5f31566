"""A state folder that is damaged, torn or of another mesh: one line names it, one says what to do."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hauberk.certs import files
from hauberk.certs.clock import utc_now
from hauberk.certs.credentials import Credentials
from hauberk.certs.identity import SpiffeId
from hauberk.certs.store import CredentialStore
from hauberk.cli import authority
from tests.cli.processes import IDLE
from tests.cli.saved import HOUR, MESH, Saved, refused
from tests.mesh.running import running

ALIVE = {"mesh": "127.0.0.1:1", "enrolment": "127.0.0.1:1", "pid": os.getpid()}
KEY = Path("r000001", "intermediate.key.pem")


@pytest.fixture
def mesh(tmp_path: Path) -> Saved:
    return Saved.make(tmp_path / "mesh")


@pytest.mark.parametrize(
    "strange",
    [
        {"pid": 0},
        {"pid": -1},
        {"pid": 1 << 31},
        {"pid": 1 << 80},
        {"pid": "1"},
        {"mesh": ""},
        {"mesh": "nowhere"},
        {"enrolment": "127.0.0.1:99999"},
        "garbage",
        [],
    ],
    ids=str,
)
@pytest.mark.parametrize("command", [["ps"], ["ca", "prepare"], ["invite", "idle"]])
def test_damaged_addresses_are_named(mesh: Saved, strange: Any, command: list[str]) -> None:
    content = json.dumps(ALIVE | strange if isinstance(strange, dict) else strange)
    mesh.state.addresses_file.write_text(content)
    refused(mesh.run(*command), f"{mesh.state.addresses_file}: cannot be read: ", "remove it")


def test_doctor_lists_damaged_addresses_and_goes_on(mesh: Saved) -> None:
    mesh.state.addresses_file.write_text("garbage")
    done = mesh.run("doctor")
    assert re.search(r"FAIL  ports .*addresses\.json: cannot be read", done.stdout)
    assert "ok    ca " in done.stdout


def test_up_starts_in_spite_of_damaged_addresses_and_lost_roots(tmp_path: Path) -> None:
    """Both are written again: the one by whoever listens, the other from the authority."""
    (tmp_path / "mesh.toml").write_text(IDLE)
    with running(tmp_path):
        pass
    (tmp_path / ".hauberk" / "control" / "addresses.json").write_text("garbage")
    (tmp_path / ".hauberk" / "ca" / "roots.pem").unlink()
    with running(tmp_path):
        assert (tmp_path / ".hauberk" / "ca" / "roots.pem").exists()
    assert "was not what is trusted, and is written again" in (tmp_path / "up.log").read_text()


def test_up_names_addresses_that_cannot_be_removed(mesh: Saved) -> None:
    mesh.state.addresses_file.mkdir()
    refused(mesh.run("up"), f"cannot remove {mesh.state.addresses_file}: ")


@pytest.mark.parametrize("command", [["ca", "init"], ["up"]])
def test_no_ca_is_made_in_the_place_of_one_that_is_gone(mesh: Saved, command: list[str]) -> None:
    """The store that is left would refuse it, and nobody would know what became of the old one."""
    files.remove_folder(mesh.state.ca)
    refused(mesh.run(*command), "is of a mesh whose CA is gone", "hauberk restore FILE")
    assert not mesh.state.ca.exists()


@pytest.mark.parametrize(
    "command", [["ca", "show"], ["ca", "prepare"], ["up"], ["backup", "x", "--plain-keys"]]
)
@pytest.mark.parametrize(
    ("damage", "what", "next_step"),
    [
        (lambda ca: (ca / "authority.json").write_text("{}"), "unreadable: ", ""),
        (lambda ca: (ca / "authority.json").chmod(0o644), "others could use it: chmod 0600", ""),
        (lambda ca: (ca / KEY).unlink(), "no such file", ""),
        (lambda ca: (ca / KEY).write_text("x"), "key is unreadable", "ca_passphrase_file"),
        (lambda ca: ca.chmod(0o755), "others could use it: chmod 0700", ""),
        (lambda ca: files.remove_folder(ca / "r000001"), "no such file", ""),
    ],
    ids=["ledger", "mode", "no key", "key", "folder", "no root"],
)
def test_a_damaged_authority_is_named(
    mesh: Saved, command: list[str], damage: Callable[[Path], None], what: str, next_step: str
) -> None:
    damage(mesh.state.ca)
    done = mesh.run(*command)
    refused(done, "the authority cannot be opened: ", next_step)
    assert what in done.stderr


@pytest.mark.parametrize("command", [["ca", "show"], ["up"], ["backup", "x", "--plain-keys"]])
def test_a_state_folder_of_another_mesh_is_named(mesh: Saved, command: list[str]) -> None:
    mesh.state.mesh_file.write_text(MESH.replace("saved.test", "other.test"))
    refused(mesh.run(*command), "signs for saved.test, mesh.toml says other.test", "write trust_domain")


def test_an_empty_passphrase_is_none(tmp_path: Path) -> None:
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "words").write_text("words\n")
    mesh = Saved.make(tmp_path / "mesh", MESH + '[control]\nca_passphrase_file = "words"\n')
    (mesh.folder / "words").write_text("\n")
    for command in (["ca", "init"], ["ca", "show"], ["up"]):
        refused(mesh.run(*command), "words is empty", "write a passphrase into it")
    mesh.state.mesh_file.write_text(MESH)
    refused(mesh.run("ca", "show"), "no passphrase was given", "ca_passphrase_file")


@pytest.mark.parametrize("command", [["ps"], ["invite", "idle"], ["ca", "prepare"]])
def test_damaged_operator_credentials_are_named(mesh: Saved, command: list[str]) -> None:
    mesh.state.addresses_file.write_text(json.dumps(ALIVE))
    ca = authority.load(mesh.state, mesh.state.mesh())
    svid = ca.issue(SpiffeId.of("saved.test", "operators/local"), lifetime=HOUR, now=utc_now())
    CredentialStore(mesh.state.operator).write(Credentials(svid, ca.bundle))
    mesh.state.operator.joinpath("g000001", "key.pem").unlink()
    refused(mesh.run(*command), "key.pem: no such file", "hauberk up")
    done = mesh.run("doctor")
    assert re.search(r"FAIL  control .*key\.pem: no such file", done.stdout), done.output


def test_a_mesh_file_that_is_none_is_named(mesh: Saved) -> None:
    mesh.state.mesh_file.unlink()
    mesh.state.mesh_file.mkdir()
    refused(mesh.run("ps"), "mesh.toml: cannot be read: Is a directory")
    mesh.state.mesh_file.rmdir()
    mesh.state.mesh_file.write_bytes(b"\xff\xfe")
    refused(mesh.run("ps"), "mesh.toml: cannot be read: not utf-8")
