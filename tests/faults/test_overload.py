"""Three times as much is asked of a server as it can: it goes on as before, for whom it matters most."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults import eight_slots, offered_load

GOODPUT = 0.8
HIGH_LOST = 0.01
SLOWER = 8.0
"""Times the 99th percentile without load. The aim is five; on two quiet cores it was 5.1 to 6.6, with the
50 ms by which the load itself is late.
"""


@pytest.mark.alone
@pytest.mark.soak
@pytest.mark.timeout(120)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="server and load need a core each: run on two")
def test_overloaded_server_keeps_its_goodput_for_whom_it_matters_most(tmp_path: Path, soaking: bool) -> None:
    call_s = 0.02 if soaking else 0.04  # other tests run beside the short version
    unloaded, overloaded, server = _run(tmp_path, call_s, *((5.0, 30.0) if soaking else (1.5, 6.0)))
    capacity = eight_slots.SLOTS / call_s * overloaded["seconds"]
    print(unloaded, overloaded, server)
    offered = {name: sum(ended.values()) for name, ended in overloaded["ended"].items()}
    answered = {name: ended.get("OK", 0) for name, ended in overloaded["ended"].items()}
    assert sum(offered.values()) >= 0.95 * offered_load.OVERLOADED * capacity
    assert sum(answered.values()) >= GOODPUT * capacity
    assert offered["HIGH"] - answered["HIGH"] < HIGH_LOST * offered["HIGH"]
    assert answered["NORMAL"] / offered["NORMAL"] > 2 * answered["LOW"] / offered["LOW"]
    assert {why for ended in overloaded["ended"].values() for why in ended} <= {
        "OK",
        "UNAVAILABLE: this server has more to do than it can",
    }
    assert all(set(ended) <= {"OK"} for ended in unloaded["ended"].values())
    assert server["left"] == 0
    if soaking:
        assert overloaded["p99_ms"] < SLOWER * unloaded["p99_ms"]


def _run(folder: Path, call_s: float, *phases_s: float) -> tuple[Any, Any, Any]:
    """What the load saw in its two phases, and what the server did."""
    command = [sys.executable, "-m", eight_slots.__name__, str(folder), str(call_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            ends = time.monotonic() + 20
            while not (folder / "address").exists():
                assert server.poll() is None
                assert time.monotonic() < ends
                time.sleep(0.05)
            arguments = [str(folder), str(call_s), *map(str, phases_s)]
            load = subprocess.run(
                [sys.executable, "-m", offered_load.__name__, *arguments],
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            (folder / "over").touch()
            told, _ = server.communicate(timeout=10)
        finally:
            server.kill()
    seen = json.loads(load.stdout)
    return *seen["phases"], json.loads(told) | {"load_cpu_s": seen["cpu_s"]}
