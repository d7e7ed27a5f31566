"""What `hauberk up` does and says when a part of the mesh cannot start, dies for good, or does not answer."""

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

from tests.cli.processes import IDLE, command_line, leaves_nothing, pid_of, processes_of, serving, until
from tests.mesh.running import COMMAND, clean_environment, hauberk, running, shop

DIES = """
trust_domain = "dies.test"
[workloads.dies]
command = ["python", "-c", "print('no such table'); raise SystemExit(3)"]
"""


def test_a_control_plane_that_does_not_answer_is_named_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text(IDLE)
    with running(tmp_path):
        control = pid_of(tmp_path, "hauberk.services.control.main")
        os.kill(control, signal.SIGSTOP)
        try:
            asked = hauberk(tmp_path, "ps")
            examined = hauberk(tmp_path, "doctor")
        finally:
            os.kill(control, signal.SIGCONT)
    named = r"the control plane at 127\.0\.0\.1:\d+ did not answer in time"
    assert re.fullmatch(rf"hauberk: {named}\n  next: find out why: hauberk doctor\n", asked.stderr)
    assert re.search(named, examined.stdout)
    assert f"kill -KILL {control}" in examined.stdout, "doctor sends nobody to doctor"


def test_a_name_that_keeps_a_wanted_contract_is_named_with_the_command_that_frees_it(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text(IDLE)
    with running(tmp_path):
        assert hauberk(tmp_path, "invite", "former", "--serves", "idle.v1.Idle").returncode == 0
    (tmp_path / "mesh.toml").write_text(IDLE + 'serves = ["idle.v1.Idle"]\n')
    up = subprocess.Popen(
        [*COMMAND, "up"], cwd=tmp_path, env=clean_environment(), text=True, stderr=subprocess.PIPE
    )
    try:
        assert up.stderr
        told = next(line for line in up.stderr if "idle-1 cannot be started" in line)
        assert (
            "idle.v1.Idle may be served by former alone; take it from there: hauberk invite former --s"
            in told
        )
        assert hauberk(tmp_path, "invite", "former", "--serves-nothing").returncode == 0
        until(lambda: any("600" in command_line(pid) for pid in processes_of(tmp_path)))
    finally:
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=30)


def test_a_process_that_keeps_dying_ends_the_mesh_loudly(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text(DIES)
    ended = hauberk(tmp_path, "up", timeout=90)
    assert ended.returncode == 1
    assert "dies-1 ended with exit code 3, 5 times in a row: given up. Its last lines:" in ended.stderr
    assert ended.stderr.rstrip().splitlines()[-1] == "hauberk: dies-1 was given up"
    leaves_nothing(tmp_path)


def test_a_workload_that_was_revoked_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text(shop())
    with running(tmp_path) as up:
        assert hauberk(tmp_path, "revoke", "payments").returncode == 0
        until(lambda: "payments-1 cannot be started" in (tmp_path / "up.log").read_text())
        until(lambda: "the mesh runs on without it" in (tmp_path / "up.log").read_text())
        assert serving(tmp_path) == {"control", "catalog", "orders"}
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 1
    assert "hauberk: payments-1 was given up" in (tmp_path / "up.log").read_text()


def test_a_workload_given_up_at_the_start_is_in_the_table_and_the_others_run(tmp_path: Path) -> None:
    idle = IDLE[IDLE.index("[workloads") :]
    (tmp_path / "mesh.toml").write_text(f'{DIES}serves = ["dies.v1.Dies"]\n{idle}')
    with (tmp_path / "up.log").open("w") as log:
        up = subprocess.Popen(
            [*COMMAND, "up"], cwd=tmp_path, env=clean_environment(), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: "all but dies-1 serve after" in (tmp_path / "up.log").read_text())
        told = (tmp_path / "up.log").read_text()
        assert "the mesh runs on without it" in told
        assert re.search(r"dies-1 +spiffe://dies.test/dies +- +given up", told)
        assert re.search(r"idle-1 +spiffe://dies.test/idle +- +serving +\d+", told)
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 1
    assert (tmp_path / "up.log").read_text().rstrip().endswith("hauberk: dies-1 was given up")


def test_a_control_plane_that_cannot_start_ends_up_loudly(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f'[control]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"\n'
        (tmp_path / "mesh.toml").write_text(f'trust_domain = "a.test"\n{listen}')
        ended = hauberk(tmp_path, "up", timeout=90)
    assert ended.returncode == 1
    assert ended.stderr.rstrip().splitlines()[-1] == "hauberk: control was given up"
    assert re.search(r"control \| .*127.0.0.1:\d+", ended.stderr)
