"""`hauberk ca`: made by hand or by `up`, shown without a mesh, rolled in three steps with one and without."""

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.mesh.running import hauberk, replicas, running, shop

MESH = 'trust_domain = "shop.test"\n[control]\nnames = ["127.0.0.1", "control.example"]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mesh.toml").write_text(MESH)
    return tmp_path


def ca(folder: Path, step: str) -> Any:
    """What a step that must succeed answers."""
    done = hauberk(folder, "ca", step, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def states(answer: Any) -> list[str]:
    return [root["state"] for root in answer["roots"]]


def pinned(folder: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((folder / ".hauberk" / "ca" / "roots.pem").read_bytes())


def test_init_makes_what_show_shows(folder: Path) -> None:
    made = ca(folder, "init")
    assert made == ca(folder, "show")
    assert (made["trust_domain"], states(made)) == ("shop.test", ["active"])
    assert stat.S_IMODE((folder / ".hauberk").stat().st_mode) == 0o700


def test_the_names_that_control_is_dialled_by_are_permitted_by_the_root(folder: Path) -> None:
    ca(folder, "init")
    (root,) = pinned(folder)
    permitted = root.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    assert x509.DNSName("control.example") in permitted


def test_a_second_init_is_refused_and_changes_nothing(folder: Path) -> None:
    ca(folder, "init")
    before = pinned(folder)
    refused = hauberk(folder, "ca", "init")
    assert refused.returncode == 1
    assert "there is an authority already" in refused.stderr
    assert pinned(folder) == before


def test_show_without_an_authority_says_how_to_make_one(folder: Path) -> None:
    refused = hauberk(folder, "ca", "show")
    assert refused.returncode == 1
    assert "hauberk ca init" in refused.stderr


def test_a_roll_without_a_mesh_is_done_in_the_folder(folder: Path) -> None:
    old = ca(folder, "init")["roots"][0]["fingerprint"]
    assert states(ca(folder, "prepare")) == ["active", "prepared"]
    assert len(pinned(folder)) == 2
    assert states(ca(folder, "activate")) == ["retiring", "active"]
    (root,) = ca(folder, "retire")["roots"]
    assert (root["state"], root["fingerprint"] == old) == ("active", False)
    assert len(pinned(folder)) == 1


def test_a_roll_for_people_says_the_next_step(folder: Path) -> None:
    ca(folder, "init")
    text = hauberk(folder, "ca", "prepare").stdout
    assert "ROOT" in text
    assert "next: when it cuts off nobody" in text
    assert "hauberk ca activate" in text


@pytest.mark.parametrize(("step", "following"), [("activate", "prepare"), ("retire", "prepare")])
def test_a_step_out_of_turn_is_refused_with_the_right_one(folder: Path, step: str, following: str) -> None:
    ca(folder, "init")
    refused = hauberk(folder, "ca", step)
    assert refused.returncode == 1
    assert f"the next step is {following}" in refused.stderr


def test_a_whole_roll_takes_a_running_mesh(folder: Path) -> None:
    ca(folder, "init")
    refused = hauberk(folder, "ca", "roll")
    assert refused.returncode == 1
    assert "no control plane runs" in refused.stderr


@pytest.mark.parametrize("secret", ["", "nowhere"])
def test_a_passphrase_that_is_missing_is_named(folder: Path, secret: str) -> None:
    (folder / "mesh.toml").write_text(MESH + 'ca_passphrase_file = "secret"\n')
    (folder / "secret").write_text("one\n")
    ca(folder, "init")
    (folder / "secret").unlink()
    (folder / "mesh.toml").write_text(MESH + f'ca_passphrase_file = "{secret}"\n')
    refused = hauberk(folder, "ca", "show")
    assert refused.returncode == 1
    assert "passphrase" in refused.stderr


def test_a_running_mesh_lives_through_a_whole_roll(tmp_path: Path) -> None:
    """Control tells every process of each step, and lets no root go whose certificates still live."""
    (tmp_path / "mesh.toml").write_text(shop(svid_lifetime="10s"))
    with running(tmp_path):
        (old,) = ca(tmp_path, "show")["roots"]
        assert states(ca(tmp_path, "prepare")) == ["active", "prepared"]
        assert product_count(tmp_path) > 5
        assert states(ca(tmp_path, "activate")) == ["retiring", "active"]
        early = hauberk(tmp_path, "ca", "retire")
        assert re.search(
            r"certificates under the old root are still valid: retire after 20\d\d-", early.stderr
        )
        roll = ca(tmp_path, "show")["roll"]
        assert roll["next"] == "retire"
        held = {each["name"]: each for each in roll["waiting_for"]}
        assert {"catalog", "orders", "payments", "operators/local"} <= held.keys()
        assert all(each["certificates"] >= 1 and each["until"] > "20" for each in held.values())
        text = hauberk(tmp_path, "ca", "show").stdout
        assert "retire waits: certificates of the old root:" in text
        # The replica is named while it still shows one of them.
        assert re.search(r"(?m)^  (catalog|orders|payments): \d+ valid until 20\S+Z(, replica 1)?$", text)
        rest = hauberk(tmp_path, "ca", "roll")
        assert rest.returncode == 0, rest.stderr
        assert "retire waits: " in rest.stdout
        assert "retire: done" in rest.stdout
        assert "prepare" not in rest.stdout
        (new,) = ca(tmp_path, "show")["roots"]
        assert new["fingerprint"] != old["fingerprint"]
        assert product_count(tmp_path) > 5
        assert {row["status"] for row in replicas(tmp_path)} == {"serving"}


def product_count(folder: Path) -> int:
    called = hauberk(folder, "call", "shop.catalog.v1.Catalog/ListProducts", "--as", "gateway", "--json")
    assert called.returncode == 0, called.stderr
    return len(called.stdout.splitlines())
