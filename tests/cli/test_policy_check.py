"""`hauberk policy check`: each thing that is wrong with contracts is found, where it is written."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.mesh.running import REPOSITORY, hauberk, shop

MESH = """
trust_domain = "lab.test"
[workloads.front]
command = ["x"]
serves = ["lab.v1.Front"]
[workloads.back]
command = ["x"]
serves = ["lab.v1.Back"]
"""
HEAD = """syntax = "proto3";
package lab.v1;
import "hauberk/policy/v1/policy.proto";
message Ask {}
message Told {}
service Front {
  option (hauberk.policy.v1.defaults) = {
    callers: "operators/*"
    deadline { max { seconds: 2 } }
  };
  rpc Open(Ask) returns (Told);
}
service Back {
  rpc Look(Ask) returns (Told) {
    option idempotency_level = NO_SIDE_EFFECTS;
    option (hauberk.policy.v1.policy) = { callers: "*" };
  }
  rpc Act(Ask) returns (Told) {
"""
FIRST = HEAD.count("\n") + 1
"""The line after."""


def lab(folder: Path, option: str, mesh: str = MESH) -> Path:
    """A mesh of two workloads, in whose contract Back.Act has this policy option."""
    (folder / "mesh.toml").write_text(mesh)
    contract = folder / "protos" / "lab" / "v1" / "lab.proto"
    contract.parent.mkdir(parents=True)
    contract.write_text(f"{HEAD}{option}\n  }}\n}}\n")
    return folder


def checked(folder: Path, *more: str) -> tuple[int, list[dict[str, Any]]]:
    done = hauberk(folder, "policy", "check", "--json", *more)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def policy(*lines: str) -> str:
    return "\n".join(("option (hauberk.policy.v1.policy) = {", *lines, "};"))


@pytest.mark.parametrize(
    ("option", "kind", "line", "what"),
    [
        ("", "no-policy", -1, "method has no policy: lab.v1.Back.Act"),
        (
            policy("deadline { required: true default { seconds: 1 } }"),
            "no-policy",
            0,
            "excludes deadline.default",
        ),
        (policy("audit: true"), "unreachable", 0, "nobody may call it: callers is empty"),
        (policy("", 'callers: "gatway"'), "unreachable", 2, "nobody in the mesh may call it: gatway"),
        (policy('callers: ["front", "gatway"]'), "unknown-caller", 1, "nobody of that name"),
        (policy('callers: "*"'), "unauthenticated-write", 1, "any caller may call it without a token"),
        (policy("anonymous: true"), "unauthenticated-write", 1, "anybody may call it without a certificate"),
        (policy('callers: "front"', "token { }"), "no-issuer", 2, "no issuer is believed"),
        (
            policy('callers: "front"', "deadline {", "max { seconds: 3 }", "}"),
            "deadline-over-budget",
            3,
            "its deadline of 3 s is longer than its caller front has: 2 s",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "-" in value and " " not in value else None,
)
def test_what_is_wrong_is_found_where_it_is_written(
    tmp_path: Path, option: str, kind: str, line: int, what: str
) -> None:
    code, found = checked(lab(tmp_path, option))
    (finding,) = found
    assert (code, finding["kind"], finding["method"]) == (1, kind, "/lab.v1.Back/Act")
    assert what in finding["what"]
    assert finding["where"] == f"protos/lab/v1/lab.proto:{FIRST + line}"
    assert finding["next_step"]


@pytest.mark.parametrize(
    "option",
    [
        policy('callers: "front"'),
        policy('callers: "*" token { }'),
        policy('callers: "spiffe://elsewhere.test/x"'),
        policy('callers: "front" deadline { max { seconds: 2 } }'),
        policy('callers: "operators/*" deadline { max { seconds: 9 } }'),
        'option idempotency_level = NO_SIDE_EFFECTS;\noption (hauberk.policy.v1.policy) = { callers: "*" };',
    ],
)
def test_what_is_right_is_left_alone(tmp_path: Path, option: str) -> None:
    mesh = MESH + '[tokens.login]\nissuer = "https://a.test"\njwks = "keys.json"\n'
    assert checked(lab(tmp_path, option, mesh)) == (0, [])


def test_what_only_deserves_a_look_does_not_fail(tmp_path: Path) -> None:
    mesh = MESH + '[tokens.login]\nissuer = "https://a.test"\njwks = "keys.json"\n'
    option = policy('callers: ["front", "batch/*"]', "token { bound: false }")
    code, found = checked(lab(tmp_path, option, mesh))
    assert (code, [finding["kind"] for finding in found]) == (0, ["unknown-caller", "unbound-token"])
    assert all(finding["note"] for finding in found)


def test_a_service_that_no_file_declares_is_found(tmp_path: Path) -> None:
    lab(tmp_path, policy('callers: "front"'), MESH.replace("lab.v1.Front", "lab.v1.Frond"))
    code, found = checked(tmp_path)
    assert code == 1
    assert found[0]["kind"] == "no-contract"
    assert found[0]["where"] == "mesh.toml [workloads.front] serves"


def test_contracts_are_checked_as_they_are_overridden(tmp_path: Path) -> None:
    tables = '[policy."/lab.v1.Back/Act"]\ncallers = ["gatway"]\n[policy."/lab.v1.Back/Atc"]\naudit = true\n'
    code, found = checked(lab(tmp_path, policy('callers: "front"'), MESH + tables))
    line = MESH.count("\n") + 1
    assert code == 1
    assert [(finding["kind"], finding["where"]) for finding in found] == [
        ("unknown-method", f"mesh.toml:{line + 2}"),
        ("unreachable", f"mesh.toml:{line + 1}"),
    ]


def test_for_people_each_finding_says_what_where_and_what_to_do(tmp_path: Path) -> None:
    done = hauberk(lab(tmp_path, policy("audit: true")), "policy", "check")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "/lab.v1.Back/Act: nobody may call it: callers is empty",
        f"  at: protos/lab/v1/lab.proto:{FIRST}",
        '  next: name who may: callers: ["gateway"]',
    ]


def test_a_contract_that_protoc_cannot_read_is_named(tmp_path: Path) -> None:
    done = hauberk(lab(tmp_path, "option nonsense"), "policy", "check")
    assert done.returncode == 1
    assert done.stderr.startswith("hauberk: protoc cannot read the contracts: ")
    assert f"protos/lab/v1/lab.proto:{FIRST + 1}:" in done.stderr


def test_the_contracts_of_the_shop_have_nothing_wrong_with_them(tmp_path: Path) -> None:
    """Found beside mesh.toml, and where only hauberk itself brings them."""
    (tmp_path / "mesh.toml").write_text(shop())
    for folder in (REPOSITORY, tmp_path):
        code, found = checked(folder)
        assert (code, [finding["kind"] for finding in found]) == (0, ["unknown-caller"])


def test_a_running_mesh_is_checked_as_it_enforces(shop_folder: Path) -> None:
    code, found = checked(shop_folder, "--running")
    (finding,) = [each for each in found if each["method"] == "/shop.orders.v1.Orders/PlaceOrder"]
    assert (code, finding["kind"]) == (0, "unknown-caller")
    assert finding["where"] == "method option of /shop.orders.v1.Orders/PlaceOrder, as orders#1 announced it"
