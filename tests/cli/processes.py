"""The processes of a mesh under `hauberk up`, as the machine and the mesh list them."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.mesh.running import hauberk

IDLE = """
trust_domain = "idle.test"
[workloads.idle]
command = ["sleep", "600"]
"""


def leaves_nothing(folder: Path) -> None:
    """No process of the mesh in `folder`, and no file that tells where one listens."""
    until(lambda: not processes_of(folder))
    state = folder / ".hauberk"
    assert [path for path in state.rglob("*") if path.is_socket() or path.name.endswith(".pid")] == []
    assert not (state / "control" / "addresses.json").exists()
    assert (state / "ca" / "authority.json").exists()


def processes_of(folder: Path) -> list[int]:
    """Every process whose working folder is `folder`: `up`, and all it started."""
    listed = subprocess.run(["ps", "-eo", "pid="], capture_output=True, text=True, check=True)
    found = [int(pid) for pid in listed.stdout.split()]
    return [pid for pid in found if is_running(pid) and working_folder(pid) == folder]


def pid_of(folder: Path, module: str) -> int:
    (pid,) = [pid for pid in processes_of(folder) if module in command_line(pid)]
    return pid


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def working_folder(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


def is_running(pid: int) -> bool:
    """A zombie that waits to be buried runs no more."""
    listed = subprocess.run(
        ["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip()[:1] not in ("", "Z")


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come to that in time"
        time.sleep(0.2)


def serving(folder: Path) -> set[str]:
    listed = hauberk(folder, "ps", "--json")
    if listed.returncode != 0:
        return set()
    return {row["workload"] for row in json.loads(listed.stdout) if row["status"] == "serving"}
