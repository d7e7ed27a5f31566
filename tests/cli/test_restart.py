"""`hauberk restart` on processes that serve nothing: what it restarts, when it stops, what it refuses."""

import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hauberk.cli.state import State
from hauberk.cli.up_socket import Request, ask
from tests.mesh.running import COMMAND, clean_environment, hauberk, running

# What is broken is seen to run before it ends; the pauses between its starts are longer than it has to stay.
MESH = """
trust_domain = "idle.test"
[workloads.steady]
command = ["sleep", "600"]
replicas = 2
[workloads.fragile]
command = ["sh", "-c", "test -e broken && sleep 0.3 && echo no such table && exit 3; exec sleep 600"]
replicas = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running mesh; a test leaves it as it found it, save for pids."""
    folder = tmp_path_factory.mktemp("restart")
    (folder / "mesh.toml").write_text(MESH)
    with running(folder):
        yield folder


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of `hauberk ps`, by process."""
    done = hauberk(folder, "ps", "--json")
    assert done.returncode == 0, done.stderr
    return {row["process"]: row for row in json.loads(done.stdout)}


def pids(folder: Path) -> dict[str, int]:
    return {process: row["pid"] for process, row in listed(folder).items()}


def test_all_are_the_workloads_and_then_the_control_plane(folder: Path) -> None:
    before = pids(folder)
    done = hauberk(folder, "restart", "--all", "--json", timeout=120)
    assert done.returncode == 0, done.stderr
    after = pids(folder)
    assert set(before) == set(after)
    assert all(before[name] != after[name] for name in before)
    order = [step["replica"] for step in json.loads(done.stdout)["steps"] if step["event"] == "serves"]
    assert order == ["steady-1", "steady-2", "fragile-1", "fragile-2", "control"]
    assert {row["restarts"] for row in listed(folder).values()} == {0}, "none of them died"


def test_one_that_does_not_come_back_stops_the_restart_and_the_others_run_on(folder: Path) -> None:
    """And it is shown as what it is, and started again by the next restart."""
    before = pids(folder)
    (folder / "broken").touch()
    try:
        failed = hauberk(folder, "restart", "fragile", timeout=90)
        assert failed.returncode == 1
        assert "hauberk: fragile-1 was given up: ended with exit code 3" in failed.stderr
        assert "\n    no such table\n" in failed.stderr
        assert "next: read .hauberk/logs/fragile-1.log" in failed.stderr
        row = listed(folder)["fragile-1"]
        assert (row["status"], row["restarts"], row["pid"]) == ("given up", 5, None)
        assert pids(folder)["fragile-2"] == before["fragile-2"]
        told = (folder / "up.log").read_text()
        assert "fragile-1 ended with exit code 3, 5 times in a row: given up. Its last lines:" in told
        assert "the mesh runs on without it; mend it, then: hauberk restart fragile" in told
        examined = hauberk(folder, "doctor")
        assert examined.returncode == 1
        assert re.search(
            r"FAIL +workloads +fragile #1 is given up \(it ended with exit code 3\)\n +do: read \S+/logs/"
            r"fragile-1.log, mend it, then: hauberk restart fragile\n",
            examined.stdout,
        )
        assert "no such table" in (folder / ".hauberk" / "logs" / "fragile-1.log").read_text()
    finally:
        (folder / "broken").unlink()
    again = hauberk(folder, "restart", "fragile")
    assert again.returncode == 0
    assert re.search(r"fragile-1 +does not run, starts\n", again.stdout)
    after = pids(folder)
    assert after["fragile-1"]
    assert after["fragile-2"] != before["fragile-2"]
    assert hauberk(folder, "doctor").returncode == 0


def test_ctrl_c_stops_after_the_current_process_and_until_then_another_restart_is_refused(
    folder: Path,
) -> None:
    before = pids(folder)
    with _restarting(folder, "steady") as asking:
        request = Request(ask="restart", workloads=("fragile",))
        [refused] = ask(State.beside(folder / "mesh.toml"), request, within=5)
        assert refused["message"] == "another restart is under way"
        asking.send_signal(signal.SIGINT)
        said, told = asking.communicate(timeout=30)
    assert asking.returncode == 1
    assert re.search(rf"steady-1 +serves after \d\.\d s, pid {pids(folder)['steady-1']}\n", said)
    assert "stopping after this replica" in told
    assert "hauberk: stopped as asked; not restarted: steady-2\n" in told
    assert "next: go on: hauberk restart steady" in told
    after = pids(folder)
    assert {name for name in before if before[name] != after[name]} == {"steady-1"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nobody"], "no workload 'nobody' in this mesh\n  next: there are: steady, fragile, control"),
        ([], "name the workloads to restart, or give --all"),
        (["steady", "--all"], "name the workloads to restart, or give --all"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_restarted_is_refused(folder: Path, arguments: list[str], complaint: str) -> None:
    before = pids(folder)
    refused = hauberk(folder, "restart", *arguments)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"hauberk: {complaint}")
    assert pids(folder) == before


@pytest.mark.soak
def test_nothing_is_ended_while_the_control_plane_could_not_let_it_in_again(
    folder: Path, soaking: bool
) -> None:
    """And a control plane that hangs is restarted all the same (by force, after 15 s)."""
    before = pids(folder)
    os.kill(before["control"], signal.SIGSTOP)
    refused = hauberk(folder, "restart", "steady")
    assert refused.returncode == 1
    assert refused.stderr.startswith("hauberk: the control plane does not answer")
    assert "next: hauberk restart control" in refused.stderr
    if soaking:
        assert hauberk(folder, "restart", "control").returncode == 0
    else:
        os.kill(before["control"], signal.SIGCONT)
    after = pids(folder)
    assert {name for name in before if before[name] != after[name]} == ({"control"} if soaking else set())


def test_the_socket_is_ours_alone(folder: Path) -> None:
    socket = folder / ".hauberk" / "up.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700


def _restarting(folder: Path, name: str) -> subprocess.Popen[str]:
    """A restart whose first process is about to end."""
    process = subprocess.Popen(
        [*COMMAND, "restart", name],
        cwd=folder,
        env=clean_environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert "is asked to end" in process.stdout.readline()
    return process
