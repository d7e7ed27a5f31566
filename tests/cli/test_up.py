"""`hauberk up` as a user sees it: starts by itself, trades, restarts what dies, and leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import IDLE, is_running, leaves_nothing, pid_of, processes_of, serving, until
from tests.mesh.running import COMMAND, clean_environment, hauberk, replicas, running, shop, up_once

FIRST_ORDER_S = 15


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mesh.toml").write_text(shop())
    return tmp_path


def test_once_trades_and_prints_the_trip_hop_by_hop(folder: Path) -> None:
    ended = up_once(folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(re.findall(r"(?m)^order .* placed", ended.stdout)) >= 18
    assert "spiffe://shop.test/payments" in ended.stdout
    trip = ended.stdout.partition("trip of trace ")[2].splitlines()
    hops = [re.split(r"\s{2,}", line.strip()) for line in trip[1:] if line.strip()]
    first = ["gateway -> orders", "shop.orders.v1.Orders/PlaceOrder", "peer spiffe://shop.test/gateway"]
    assert hops[0][:3] == first
    assert {hop[0] for hop in hops[1:]} == {"orders -> catalog", "orders -> payments"}
    assert all(line.startswith("    ") for line in trip[2 : len(hops) + 1]), "callees stand under callers"
    for hop in hops:
        assert re.fullmatch(r"[0-9.]+ ms \d+ ms left OK", " ".join(hop[3:]))
    leaves_nothing(folder)


def test_the_first_run_serves_its_first_order_within_fifteen_seconds(folder: Path) -> None:
    began = time.monotonic()
    with subprocess.Popen(
        [*COMMAND, "up", "--once"],
        cwd=folder,
        env=clean_environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as up:
        assert up.stdout
        next(line for line in up.stdout if line.startswith("order "))
        took = time.monotonic() - began
        up.send_signal(signal.SIGINT)
        up.stdout.read()
    assert took < FIRST_ORDER_S
    assert up.returncode == 1, "it was stopped before its end, so it did not succeed"
    leaves_nothing(folder)


def test_once_as_json_is_one_document(folder: Path) -> None:
    ended = hauberk(folder, "up", "--once", "--json")
    answer = json.loads(ended.stdout)
    assert ended.returncode == 0, ended.stderr
    assert answer["failures"] == []
    assert answer["once"]["exit_code"] == 0
    assert answer["serving_after_s"] < FIRST_ORDER_S
    assert {row["identity"] for row in answer["workloads"]} >= {"spiffe://shop.test/orders"}
    budgets = [hop["budget_ms"] for hop in answer["trip"]]
    assert budgets[0] == max(budgets), "each hop sees no more than what is left"
    assert {hop["depth"] for hop in answer["trip"]} == {0, 1}


def test_ctrl_c_ends_all_and_leaves_nothing(folder: Path) -> None:
    with running(folder) as up:
        pids = processes_of(folder)
        assert len(pids) >= 4
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0
    assert [pid for pid in pids if is_running(pid)] == []
    leaves_nothing(folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_ways_to_say_stop_are_understood(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "mesh.toml").write_text(IDLE)
    with running(tmp_path) as up:
        assert len(processes_of(tmp_path)) == 4, "up, its reaper, the control plane, the workload"
        up.send_signal(number)
        assert up.wait(30) == 0
    leaves_nothing(tmp_path)


def test_one_ctrl_c_that_comes_twice_is_no_second_one(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(15, lambda *_: (time.sleep(1), print('ended well'), exit(0)));"
    )
    stubborn += "print('ready'); time.sleep(60)"
    (tmp_path / "mesh.toml").write_text(IDLE.replace('["sleep", "600"]', f'["python", "-c", "{stubborn}"]'))
    with running(tmp_path) as up:
        until(lambda: "ready" in (tmp_path / "up.log").read_text())
        up.send_signal(signal.SIGINT)
        time.sleep(0.1)
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0
    told = (tmp_path / "up.log").read_text()
    assert "ended well" in told
    assert "told twice" not in told


def test_nothing_is_left_when_up_itself_is_killed_and_the_next_one_starts(folder: Path) -> None:
    with running(folder) as up:
        pids = processes_of(folder)
        up.kill()
        up.wait()
        until(lambda: not any(map(is_running, pids)))
    with running(folder):
        listed = replicas(folder)
        assert {row["status"] for row in listed} == {"serving"}
        told = (folder / "up.log").read_text()
        shown = re.findall(r"-1 +spiffe://shop.test/(\S+) +(\S+) +serving", told)
        assert {(row["workload"], row["address"]) for row in listed[1:]} == set(shown), "not those of before"
    leaves_nothing(folder)


def test_a_second_up_is_refused_in_one_line_and_does_no_harm(shop_folder: Path) -> None:
    second = hauberk(shop_folder, "up")
    assert second.returncode == 1
    assert second.stderr.startswith("hauberk: another `hauberk up` runs this mesh already")
    assert hauberk(shop_folder, "ps").returncode == 0


def test_a_process_that_dies_is_started_again_and_serves(folder: Path) -> None:
    with running(folder):
        (before,) = [row for row in replicas(folder) if row["workload"] == "catalog"]
        os.kill(pid_of(folder, "hauberk.services.catalog.main"), signal.SIGKILL)
        until(lambda: any(is_anew(row, before) for row in replicas(folder)))
        listed = hauberk(folder, "call", "shop.catalog.v1.Catalog/ListProducts", "--as", "gateway")
        assert listed.returncode == 0, listed.stderr
    assert "catalog-1 was ended by SIGKILL; starting it again" in (folder / "up.log").read_text()


def test_the_control_plane_that_dies_comes_back_where_it_was(folder: Path) -> None:
    with running(folder):
        (before,) = [row for row in replicas(folder) if row["workload"] == "control"]
        os.kill(pid_of(folder, "hauberk.services.control.main"), signal.SIGKILL)
        until(lambda: serving(folder) == {"control", "catalog", "orders", "payments"})
        (after,) = [row for row in replicas(folder) if row["workload"] == "control"]
        assert after["address"] == before["address"]


def test_a_mesh_whose_certificates_ended_while_it_ran_starts_again_by_nobodys_hand(tmp_path: Path) -> None:
    """As after a night with the lid closed: nobody is left who could renew, or invite."""
    (tmp_path / "mesh.toml").write_text(IDLE + '[control]\nsvid_lifetime = "10s"\n')
    with running(tmp_path):
        control = pid_of(tmp_path, "hauberk.services.control.main")
        os.kill(control, signal.SIGSTOP)
        until(lambda: "expired before it could be renewed" in (tmp_path / "up.log").read_text())
        os.kill(control, signal.SIGCONT)
        until(lambda: (tmp_path / "up.log").read_text().count("all serve after") == 2)
        assert "our own certificate has ended: starting everything again" in (tmp_path / "up.log").read_text()
        assert hauberk(tmp_path, "ps").returncode == 0


def test_a_revoked_name_that_nobody_has_is_pointed_out(shop_folder: Path) -> None:
    ended = hauberk(shop_folder, "revoke", "paymets")
    assert ended.returncode == 0
    assert ended.stdout == "revoked spiffe://shop.test/paymets\n"
    assert "nobody of that name is announced or in mesh.toml" in ended.stderr


@pytest.mark.parametrize(
    ("driver", "complaint"),
    [
        ("raise SystemExit(4)", "the [once] command ended with exit code 4"),
        ("", "the [once] command: 'pyhton' is no program here: correct command in mesh.toml"),
        ("print('done')", "the last line of the [once] command is not: trace TRACE_ID"),
        (f"print('trace {'0' * 32}')", "the trip never came to idle"),
    ],
)
def test_once_fails_when_its_command_or_its_trip_does(tmp_path: Path, driver: str, complaint: str) -> None:
    program = "python" if driver else "pyhton"
    once = f'[once]\nworkload = "gateway"\ncommand = ["{program}", "-c", "{driver}"]\nthrough = ["idle"]\n'
    (tmp_path / "mesh.toml").write_text(IDLE + once)
    ended = up_once(tmp_path)
    assert ended.returncode == 1
    assert complaint in ended.stderr


def test_without_a_once_command_once_waits_until_all_serve(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text(IDLE)
    ended = up_once(tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"idle-1 +spiffe://idle.test/idle +- +serving +\d+", ended.stdout)
    leaves_nothing(tmp_path)


def test_a_child_gets_its_token_by_pipe_and_nothing_meant_for_another_mesh(tmp_path: Path) -> None:
    program = (
        "import os; fd = int(os.environ['HAUBERK_JOIN_TOKEN_FD']); token = os.read(fd, 99).decode();"
        "print(token[:5], token in str(os.environ), 'HAUBERK_CONFIG' in os.environ, os.getcwd());"
        "print('gRPC says', os.environ['GRPC_VERBOSITY']);"
        "print('issuers in', os.environ['HAUBERK_TOKEN_ISSUERS'])"
    )
    once = f'[once]\nworkload = "looker"\ncommand = ["python", "-c", "{program}"]\n'
    issuers = '[tokens.login]\nissuer = "https://login.test"\njwks = "keys.json"\n'
    (tmp_path / "mesh.toml").write_text(IDLE + once + issuers)
    environment = clean_environment() | {"HAUBERK_CONFIG": "/etc/other.toml"}
    ended = subprocess.run(
        [*COMMAND, "up", "--once"], cwd=tmp_path, env=environment, text=True, capture_output=True, check=False
    )
    assert f"hbk1. False False {tmp_path}" in ended.stdout
    assert "gRPC says NONE" in ended.stdout
    assert f"issuers in {tmp_path / 'mesh.toml'}" in ended.stdout


def test_all_that_is_written_is_ours_alone(shop_folder: Path) -> None:
    state = shop_folder / ".hauberk"
    loose = [
        path for path in (state, *state.rglob("*")) if not path.is_symlink() and path.stat().st_mode & 0o077
    ]
    assert loose == []


def is_anew(row: dict[str, Any], before: dict[str, Any]) -> bool:
    same = bool(row["workload"] == before["workload"])
    return same and row["status"] == "serving" and row["address"] != before["address"]
