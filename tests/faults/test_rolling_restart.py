"""Every service of a shop under load is restarted, one replica after another: no call fails."""

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hauberk.cli import CIPHER_VARIABLE, TLS_1_3_ONLY
from hauberk.cli.state import State
from tests.cli.processes import until
from tests.mesh.books import Books
from tests.mesh.running import clean_environment, hauberk, replicas, running, shop

SERVICES = ["catalog", "payments", "orders"]
LONGEST_LOAD_S = 280
METHODS = {
    "PlaceOrder",
    "GetProduct",
    "ListProducts",
    "GetOrder",
    "Reconcile",
    "WatchOrder",
    "ImportProducts",
    "GetPayment",
    "WatchProducts",
}


@pytest.mark.soak
@pytest.mark.timeout(290)
def test_no_call_fails_while_every_service_and_the_control_plane_are_restarted(
    tmp_path: Path, soaking: bool
) -> None:
    rounds, rate = (2, 60) if soaking else (1, 25)
    (tmp_path / "mesh.toml").write_text(twice(shop()))
    took = 0.0
    with running(tmp_path):
        with load(tmp_path, rate=rate) as summary:
            for _ in range(rounds):
                for name in (*SERVICES, "control"):
                    steps = assert_restarted(tmp_path, name, processes=1 if name == "control" else 2)
                    took += sum(step["seconds"] for step in steps if "seconds" in step)
        state = State.beside(tmp_path / "mesh.toml")
        wrongs = Books.of(state).wrongs(stocked={}, acknowledged=())
    assert summary["failed"] == 0, summary
    assert summary["skipped"] == 0, summary
    assert summary["seconds"] > took, "calls were made all the while"
    assert summary["calls"] >= 0.9 * rate * summary["seconds"]
    assert set(summary["calls_by_method"]) == METHODS
    assert summary["streams_reopened"] >= 1, "the watch was on a replica that left"
    assert wrongs == []
    print(json.dumps(summary))


@pytest.mark.timeout(120)
def test_the_only_replica_is_stood_in_for(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text(shop())
    with running(tmp_path):
        with load(tmp_path, rate=25) as summary:
            steps = assert_restarted(tmp_path, "catalog", processes=1)
            assert [step["event"] for step in steps if step["replica"] == "catalog-spare"] == [
                "spare starts",
                "spare serves",
                "spare ended",
            ]
        listed = [(row["workload"], row["replica"]) for row in replicas(tmp_path)]
        assert sorted(listed) == [("catalog", "1"), ("control", "1"), ("orders", "1"), ("payments", "1")]
        alone = assert_restarted(tmp_path, "catalog", "--no-spare", processes=1)
        assert [step["event"] for step in alone] == ["alone", "ending", "ended", "serves"]
    assert summary["failed"] == 0, summary
    took = sum(step["seconds"] for step in steps if "seconds" in step)
    assert summary["seconds"] > took, "calls were made all the while"


def assert_restarted(folder: Path, *arguments: str, processes: int) -> list[dict[str, Any]]:
    """Restart a workload; the steps, after a look that each of its processes is another one."""
    ended = hauberk(folder, "restart", *arguments, "--json", timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    steps: list[dict[str, Any]] = json.loads(ended.stdout)["steps"]
    serve = [step for step in steps if step["event"] == "serves"]
    assert len({step["replica"] for step in serve}) == processes
    assert all(step["pid"] != step["pid_before"] for step in serve)
    assert {row["status"] for row in replicas(folder)} == {"serving"}
    return steps


def twice(mesh_toml: str) -> str:
    """With two replicas of each workload."""
    return re.sub(r"(?m)^\[workloads\..*\]$", r"\g<0>\nreplicas = 2", mesh_toml)


@contextlib.contextmanager
def load(folder: Path, *, rate: float) -> Iterator[dict[str, Any]]:
    """A shopper's steady load from before the block to its end; what it counted is there after it."""
    invited = hauberk(folder, "invite", "gateway")
    assert invited.returncode == 0, invited.stderr
    token = folder / "gateway.token"
    token.touch(mode=0o600)
    token.write_text(invited.stdout)
    state = State.beside(folder / "mesh.toml")
    addresses = state.running()
    environment = {
        "HAUBERK_NAME": "gateway",
        "HAUBERK_STATE_DIR": str(folder / "gateway"),
        "HAUBERK_ENROLMENT": addresses.enrolment,
        "HAUBERK_ROOTS": str(folder / ".hauberk" / "ca" / "roots.pem"),
        "HAUBERK_JOIN_TOKEN_FILE": str(token),
        CIPHER_VARIABLE: TLS_1_3_ONLY,
    }
    summary: dict[str, Any] = {}
    program = [sys.executable, "-m", "hauberk.services.shopper.main", "--json"]
    with (
        (folder / "load.log").open("w") as log,
        subprocess.Popen(
            [*program, "--seconds", str(LONGEST_LOAD_S), "--rate", str(rate)],
            env=clean_environment() | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=log,
        ) as shopper,
    ):
        try:
            until(lambda: len(Books.of(state).orders) >= 3)
            yield summary
        finally:
            shopper.send_signal(signal.SIGTERM)
            printed, _ = shopper.communicate(timeout=30)
    lines = [line for line in printed.splitlines() if line.startswith("{")]
    assert lines, (folder / "load.log").read_text()
    summary.update(json.loads(lines[-1]))
