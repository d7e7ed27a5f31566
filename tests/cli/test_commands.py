"""What holds for every command: help with an example, a quick start, errors that say the next step."""

import re
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

import hauberk
from hauberk.cli import CIPHER_VARIABLE, TLS_1_3_ONLY, main
from tests.mesh.running import clean_environment
from tests.mesh.running import hauberk as run

CONTEXT = click.Context(main)
COMMANDS = [*main.list_commands(CONTEXT), "identity"]
PATHS = [
    path
    for name in COMMANDS
    for path in (
        [name],
        *([name, below] for below in getattr(main.get_command(CONTEXT, name), "commands", ())),
    )
]
NEED_A_MESH = [
    ["ps"],
    ["clients"],
    ["policy", "show"],
    ["invite", "orders"],
    ["revoke", "orders"],
    ["health"],
    ["call", "a.B/C"],
    ["identity", "gateway"],
]


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_has_an_example(path: list[str]) -> None:
    command: click.Command | None = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(CONTEXT, name)
    assert command is not None
    assert command.help
    assert re.match(r"Example: .*hauberk ", command.epilog or "")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_help_is_that_of_the_command(name: str) -> None:
    command = main.get_command(CONTEXT, name)
    assert command is not None
    assert command.name == name


def test_help_is_quick_and_imports_no_grpc() -> None:
    program = "import sys, hauberk.cli; print('grpc' in sys.modules, 'cryptography' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == ["False", "False"]


def test_an_unknown_command_is_refused(tmp_path: Path) -> None:
    refused = run(tmp_path, "upp")
    assert refused.returncode == 2
    assert "No such command 'upp'" in refused.stderr


@pytest.mark.parametrize(
    ("own", "told"),
    [({}, [TLS_1_3_ONLY, "NONE"]), ({"GRPC_VERBOSITY": "debug"}, [TLS_1_3_ONLY, "debug"])],
)
def test_what_grpc_reads_is_set_before_it_is_imported(
    tmp_path: Path, own: dict[str, str], told: list[str]
) -> None:
    program = (
        "import os, sys\n"
        "class Watcher:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'grpc':\n"
        f"            print(os.environ.get('{CIPHER_VARIABLE}'), os.environ.get('GRPC_VERBOSITY'))\n"
        "sys.meta_path.insert(0, Watcher())\n"
        "from hauberk.cli import main\n"
        "main(['ps'], standalone_mode=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=clean_environment() | own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == told


@pytest.mark.parametrize("arguments", NEED_A_MESH, ids=" ".join)
def test_without_a_running_mesh_a_command_says_how_to_start_one(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "mesh.toml").write_text('trust_domain = "shop.test"\n')
    refused = run(tmp_path, *arguments)
    assert refused.returncode == 1
    assert refused.stderr.startswith("hauberk: no control plane runs for ")
    assert "next: start it: hauberk up" in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize("arguments", NEED_A_MESH, ids=" ".join)
def test_without_a_mesh_file_a_command_does_not_ask_to_start_one(
    tmp_path: Path, arguments: list[str]
) -> None:
    refused = run(tmp_path, *arguments)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"hauberk: no mesh file: {tmp_path}/mesh.toml")


def test_without_a_mesh_file_up_says_where_it_looked(tmp_path: Path) -> None:
    refused = run(tmp_path, "up")
    assert refused.returncode == 1
    assert f"no mesh file: {tmp_path}/mesh.toml" in refused.stderr
    assert not (tmp_path / ".hauberk").exists(), "nothing is made before the file is good"


def test_protos_prints_the_folder_protoc_needs(tmp_path: Path) -> None:
    folder = Path(run(tmp_path, "protos").stdout.strip())
    assert (folder / "hauberk" / "policy" / "v1" / "policy.proto").is_file()


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").stdout.strip() == f"hauberk, version {hauberk.__version__}"


@pytest.mark.alone
def test_help_answers_within_a_second(tmp_path: Path) -> None:
    run(tmp_path, "--help")
    began = time.monotonic()
    assert "Commands:" in run(tmp_path, "--help").stdout
    assert time.monotonic() - began < 2.0, "a second, and as much again for a busy machine"
