"""`hauberk doctor`: each thing that can be wrong on this machine, made wrong and found, with its remedy."""

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from hauberk.certs.clock import utc_now
from hauberk.certs.credentials import Credentials
from hauberk.certs.store import CredentialStore
from hauberk.cli import authority, checkup
from hauberk.cli.checkup import Finding
from hauberk.cli.mesh_file import parse
from hauberk.cli.state import Addresses, State
from tests.mesh.running import hauberk

MESH = parse('trust_domain = "shop.test"\n[workloads.orders]\ncommand = ["sleep", "9"]\n')
HOUR = timedelta(hours=1)


@pytest.fixture
def state(tmp_path: Path) -> State:
    """A folder as `up` leaves it: an authority, and the certificate of one process."""
    state = State.beside(tmp_path / "mesh.toml")
    state.mesh_file.write_text('trust_domain = "shop.test"\n')
    opened = authority.create(state, MESH, now=utc_now() - 3 * HOUR)
    svid = opened.issue(MESH.id_of("orders"), lifetime=HOUR, now=utc_now())
    CredentialStore(state.workload("orders", 1)).write(Credentials(svid, opened.bundle))
    return state


def wrong(findings: Iterator[Finding]) -> list[Finding]:
    return [finding for finding in findings if not finding.ok]


def test_a_mesh_that_is_well_has_nothing_wrong(state: State) -> None:
    now = utc_now()
    looked_at = [
        *checkup.versions(),
        *checkup.clock(state, now=now),
        *checkup.files(state),
        *checkup.authority_of(state, MESH, now=now),
        *checkup.certificates(state, MESH, now=now),
        *checkup.ports(MESH, None),
    ]
    assert [finding for finding in looked_at if not finding.ok] == []
    assert {"versions", "clock", "files", "ca", "certificates"} <= {finding.about for finding in looked_at}


def test_a_library_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.44.0" if name == "grpcio" else "99.0")
    (finding,) = wrong(checkup.versions())
    assert finding.text == "grpcio 1.44.0"
    assert re.fullmatch(r"pip install 'grpcio>=[0-9.]+'", finding.remedy)


def test_a_clock_that_is_being_set_is_noticed(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter([1000.0, 1003.0])
    monkeypatch.setattr(time, "time", lambda: next(steps))
    (finding,) = wrong(checkup.clock(state, now=utc_now()))
    assert "ms apart" in finding.text
    assert "NTP" in finding.remedy


def test_a_clock_that_was_set_back_is_noticed(state: State) -> None:
    (finding,) = wrong(checkup.clock(state, now=utc_now() - HOUR))
    assert re.search(r"are 3[56]\d\d s newer than now", finding.text)


def test_a_missing_state_folder_is_no_riddle(tmp_path: Path) -> None:
    (finding,) = wrong(checkup.files(State.beside(tmp_path / "mesh.toml")))
    assert finding.remedy == "make it: hauberk up"


@pytest.mark.parametrize("name", ["ca/authority.json", "workloads/orders-1/g000001/key.pem", "ca", "."])
def test_what_others_can_use_is_listed_with_the_command_that_mends_it(state: State, name: str) -> None:
    path = state.folder / name
    mended = f"{path.stat().st_mode & 0o777:o}"
    path.chmod(0o755)
    (finding,) = wrong(checkup.files(state))
    assert finding.text == f"others can use {path} (0755)"
    assert finding.remedy == f"chmod {mended} {path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else_is_listed(state: State) -> None:
    path = state.folder / "ca" / "authority.json"
    os.chown(path, 12345, -1)
    assert [finding.remedy for finding in wrong(checkup.files(state))] == [f"chown {os.geteuid()} {path}"]


def test_a_missing_authority_is_no_riddle(tmp_path: Path) -> None:
    (finding,) = wrong(checkup.authority_of(State.beside(tmp_path / "mesh.toml"), MESH, now=utc_now()))
    assert finding.remedy == "make it: hauberk ca init"


def test_an_authority_of_another_trust_domain_is_recognised(state: State) -> None:
    other = parse('trust_domain = "other.test"\n')
    (finding,) = wrong(checkup.authority_of(state, other, now=utc_now()))
    assert "signs for shop.test, mesh.toml says other.test" in finding.text


def test_a_damaged_authority_is_recognised(state: State) -> None:
    (state.ca / "authority.json").write_text("{}")
    (finding,) = wrong(checkup.authority_of(state, MESH, now=utc_now()))
    assert finding.text.startswith("the authority cannot be opened: ")


def test_how_the_authoritys_keys_are_kept_is_said(state: State) -> None:
    assert any(
        "0600, not encrypted" in finding.text for finding in checkup.authority_of(state, MESH, now=utc_now())
    )


def test_encrypted_keys_are_said_to_be(tmp_path: Path) -> None:
    state = State.beside(tmp_path / "mesh.toml")
    (tmp_path / "secret").write_text("correct horse battery staple\n")
    mesh = parse('trust_domain = "shop.test"\n[control]\nca_passphrase_file = "secret"\n')
    authority.create(state, mesh)
    assert any(
        "keys encrypted" in finding.text for finding in checkup.authority_of(state, mesh, now=utc_now())
    )
    assert b"ENCRYPTED PRIVATE KEY" in next(state.ca.glob("r*/intermediate.key.pem")).read_bytes()


def test_a_root_near_its_end_is_to_be_rolled(state: State) -> None:
    (root,) = authority.load(state, MESH).roots(utc_now())
    (finding,) = wrong(checkup.authority_of(state, MESH, now=root.not_after - timedelta(days=20)))
    assert finding.remedy == "roll it: hauberk ca roll"


def test_a_key_that_does_not_match_its_certificate_is_found(state: State) -> None:
    generation = state.workload("orders", 1) / "g000001"
    opened = authority.load(state, MESH)
    other = opened.issue(MESH.id_of("orders"), lifetime=HOUR, now=utc_now())
    (generation / "key.pem").write_bytes(other.key_pem)
    (finding,) = wrong(checkup.certificates(state, MESH, now=utc_now()))
    assert "key and certificate do not belong together" in finding.text
    assert finding.remedy.startswith(f"remove {state.workload('orders', 1)}")


def test_a_certificate_of_another_authority_is_found(state: State, tmp_path: Path) -> None:
    elsewhere = State.beside(tmp_path / "elsewhere" / "mesh.toml")
    elsewhere.mesh_file.parent.mkdir()
    other = authority.create(elsewhere, MESH)
    svid = other.issue(MESH.id_of("orders"), lifetime=HOUR, now=utc_now())
    CredentialStore(state.workload("orders", 1)).write(Credentials(svid, other.bundle))
    (finding,) = wrong(checkup.certificates(state, MESH, now=utc_now()))
    assert "does not lead to our roots" in finding.text


def test_an_expired_certificate_that_a_living_process_holds_is_found(state: State) -> None:
    lock = CredentialStore(state.workload("orders", 1)).lock()
    assert lock is not None
    with lock:
        (finding,) = wrong(checkup.certificates(state, MESH, now=utc_now() + 2 * HOUR))
    assert "the process that should renew it runs" in finding.text


def test_an_expired_certificate_that_nobody_holds_is_renewed_by_the_next_start(state: State) -> None:
    findings = list(checkup.certificates(state, MESH, now=utc_now() + 2 * HOUR))
    assert [finding.ok for finding in findings] == [True]
    assert "the next start or use enrols anew" in findings[0].text


def test_a_certificate_of_the_future_is_the_clocks_fault(state: State) -> None:
    (finding,) = wrong(checkup.certificates(state, MESH, now=utc_now() - 2 * HOUR))
    assert "is not valid yet" in finding.text
    assert "clock" in finding.remedy


def test_a_port_that_somebody_else_has_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        mesh = parse(f'trust_domain = "shop.test"\n[control]\nlisten = "127.0.0.1:{port}"\n')
        (finding,) = wrong(checkup.ports(mesh, None))
    assert finding.text == f"control listen 127.0.0.1:{port} is taken"


def test_a_port_of_the_control_plane_that_does_not_answer_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as answering, socket.create_server(("127.0.0.1", 0)) as gone:
        mesh, enrolment = (f"127.0.0.1:{one.getsockname()[1]}" for one in (answering, gone))
        gone.close()
        (finding,) = wrong(checkup.ports(MESH, Addresses(mesh=mesh, enrolment=enrolment, pid=1)))
    assert finding.text == f"enrolment port {enrolment} does not answer"


def test_the_command_ends_1_and_tells_each_remedy_while_no_mesh_runs(state: State) -> None:
    told = hauberk(state.mesh_file.parent, "doctor")
    assert told.returncode == 1
    assert re.search(r"FAIL  control +no control plane runs for .*\n +do: start it: hauberk up", told.stdout)
    assert "ok    files" in told.stdout


def test_a_broken_mesh_file_is_a_finding(state: State) -> None:
    state.mesh_file.write_text("trust_domain = 1\n")
    told = hauberk(state.mesh_file.parent, "doctor", "--json")
    assert told.returncode == 1
    (finding,) = [finding for finding in json.loads(told.stdout) if not finding["ok"]]
    assert finding["about"] == "mesh file"


def test_a_running_mesh_is_well(shop_folder: Path) -> None:
    told = hauberk(shop_folder, "doctor")
    assert told.returncode == 0, told.stdout
    for words in ("mesh port", "enrolment port", "answers; trusted roots: 1", "payments #1 is serving"):
        assert words in told.stdout


def test_a_workload_that_runs_is_well(shop_folder: Path) -> None:
    told = hauberk(shop_folder, "doctor", "orders")
    assert told.returncode == 0, told.stdout
    assert "spiffe://shop.test/orders answers spiffe://shop.test/operators/local over TLSv1.3" in told.stdout


def test_the_wrong_server_at_an_address_is_named(shop_folder: Path) -> None:
    rows = json.loads(hauberk(shop_folder, "ps", "--json").stdout)
    (address,) = [row["address"] for row in rows if row["workload"] == "catalog"]
    told = hauberk(shop_folder, "doctor", address, "--expect", "orders", "--json")
    assert told.returncode == 1
    (finding,) = json.loads(told.stdout)
    assert finding["text"] == "the server is spiffe://shop.test/catalog, not spiffe://shop.test/orders"


def test_a_workload_nobody_announced_is_no_riddle(shop_folder: Path) -> None:
    told = hauberk(shop_folder, "doctor", "warehouse")
    assert told.returncode == 1
    assert told.stderr.startswith("hauberk: nobody has announced warehouse")


def test_a_server_that_lets_us_in_and_then_refuses_us_is_told_apart(shop_folder: Path) -> None:
    """Revocation is the guard's to see, not the handshake's."""
    assert hauberk(shop_folder, "doctor", "orders", "--as", "smuggler").returncode == 0
    assert hauberk(shop_folder, "revoke", "smuggler").returncode == 0
    told = hauberk(shop_folder, "doctor", "orders", "--as", "smuggler", "--json")
    assert told.returncode == 1
    handshake, health = json.loads(told.stdout)
    assert handshake["ok"]
    assert health["text"].startswith("health: UNAUTHENTICATED: ")
    assert "REVOKED" in health["text"]
