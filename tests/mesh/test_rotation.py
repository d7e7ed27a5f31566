"""Every process of the shop lives through many certificates while it trades, and through having none."""

import json
import time
from pathlib import Path

import pytest

from tests.mesh.running import Serials, shop, up_once

LIFETIME_S = 20
LOAD_S = 60
WANTED = 5


@pytest.mark.timeout(240)
def test_all_rotate_under_load_and_come_back_after_every_svid_has_expired(tmp_path: Path) -> None:
    """One mesh for both halves: the second needs the certificates that the first one leaves."""
    (tmp_path / "mesh.toml").write_text(
        shop(svid_lifetime=f"{LIFETIME_S}s", once=("--seconds", str(LOAD_S), "--json"))
    )
    with Serials(tmp_path) as serials:
        ended = up_once(tmp_path)
    stopped = time.monotonic()
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-6000:]
    summary = next(
        json.loads(line[line.index("{") :]) for line in ended.stdout.splitlines() if '"failed"' in line
    )
    assert summary["failed"] == 0
    assert summary["calls"] > LOAD_S * 10
    assert summary["stream_messages"] > LOAD_S
    assert {name.split("/")[-1].split("-")[0] for name in serials} >= {
        "control",
        "catalog",
        "orders",
        "payments",
    }
    rotations = {name: len(seen) - 1 for name, seen in serials.items()}
    assert min(rotations.values()) >= WANTED, rotations

    time.sleep(max(0.0, stopped + LIFETIME_S + 1 - time.monotonic()))
    (tmp_path / "mesh.toml").write_text(shop(svid_lifetime=f"{LIFETIME_S}s"))
    began = time.monotonic()
    again = up_once(tmp_path)
    assert again.returncode == 0, again.stdout[-6000:] + again.stderr[-6000:]
    # The whole run, 20 orders included, takes less than the first order may.
    assert time.monotonic() - began < 30
