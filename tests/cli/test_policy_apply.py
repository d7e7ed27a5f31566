"""`hauberk policy apply`, `show` and `diff` on a running mesh, and mesh.toml as `hauberk up` follows it."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mesh.running import hauberk

PLACE, LIST = "shop.orders.v1.Orders/PlaceOrder", "shop.catalog.v1.Catalog/ListProducts"
LISTING = ("call", LIST, "--as", "gateway", "-d", "{}")
CLOSED = f'[policy."/{LIST}"]\ncallers = ["orders"]\n'


class Written:
    """mesh.toml of a running shop, and what is written under it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "mesh.toml"
        self.text = self.file.read_text()

    def say(self, tables: str) -> None:
        fresh = self.folder / "mesh.toml.new"
        fresh.write_text(f"{self.text}\n{tables}")
        fresh.replace(self.file)

    def told(self, *arguments: str, code: int = 0) -> Any:
        done = hauberk(self.folder, *arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def shown(self, method: str) -> dict[str, Any]:
        (found,) = self.told("policy", "show", method)
        return dict(found)

    def until(self, method: str, overridden: list[str]) -> float:
        """Wait until so much of it is overridden; how long that took."""
        began = time.monotonic()
        while self.shown(method)["overridden"] != overridden:
            assert time.monotonic() - began < 10, self.shown(method)
        return time.monotonic() - began


@pytest.fixture
def written(shop_folder: Path) -> Iterator[Written]:
    """What it says is taken back after the test."""
    written = Written(shop_folder)
    yield written
    written.file.write_text(written.text)
    hauberk(shop_folder, "policy", "apply")
    assert written.told("policy", "diff") == []


def test_applied_overrides_are_in_force_shown_and_taken_back(written: Written) -> None:
    assert hauberk(written.folder, *LISTING).returncode == 0
    written.say(CLOSED)
    answer = written.told("policy", "apply")
    assert answer["late"] == []
    refused = hauberk(written.folder, *LISTING)
    assert "PERMISSION_DENIED: gateway may not call" in refused.stderr
    shown = written.shown(LIST)
    assert (shown["callers"], shown["overridden"], shown["shadow"]) == (["orders"], ["callers"], [])
    assert written.told("policy", "apply")["changed"] == []
    written.say("")
    written.told("policy", "apply")
    assert hauberk(written.folder, *LISTING).returncode == 0
    assert written.shown(LIST)["overridden"] == []


def test_up_follows_the_mesh_file_without_being_told(written: Written) -> None:
    written.say(CLOSED)
    written.until(LIST, ["callers"])
    assert hauberk(written.folder, *LISTING).returncode == 1
    log = (written.folder / "up.log").read_text
    written.say("[policy]\nx = 1\n")
    _until(lambda: 'what is overridden stays as it was: mesh.toml: [policy."x"]' in log())
    kept = (written.folder / ".hauberk/workloads/catalog-1/overrides.json").read_text()
    assert f'"method": "/{LIST}"' in kept
    written.say("")
    written.until(LIST, [])
    assert f"hauberk | overridden anew: {LIST}; in force in catalog#1" in log()


def test_shadow_is_shown_beside_what_is_in_force(written: Written) -> None:
    written.say(f'{CLOSED}audit = true\nshadow = ["callers"]\n')
    written.told("policy", "apply")
    assert hauberk(written.folder, *LISTING).returncode == 0
    shown = written.shown(LIST)
    assert (shown["callers"], shown["overridden"], shown["shadow"]) == (
        ["gateway", "orders"],
        ["audit"],
        ["callers"],
    )
    assert shown["would_be"]["callers"] == ["orders"]
    assert "audit, callers (shadow)" in hauberk(written.folder, "policy", "show", LIST).stdout
    refusals = written.folder / ".hauberk/workloads/catalog-1/audit/refusals.log"
    _until(lambda: refusals.exists() and "would have refused" in refusals.read_text())
    line = json.loads(refusals.read_text().splitlines()[-1])
    assert line["hauberk.would_refuse"] == "CALLER_NOT_ALLOWED"
    explained = hauberk(
        written.folder, "policy", "explain", LIST, "--caller", "gateway", "--running", "--json"
    )
    (told,) = json.loads(explained.stdout)
    answers = {one["check"]: one["answer"] for one in told["checks"]}
    assert (answers["callers"], answers["shadow callers"], told["admitted"]) == (
        "passes",
        "would refuse",
        True,
    )


def test_an_override_that_cannot_be_enforced_is_refused_with_its_reason(written: Written) -> None:
    for table, why in (
        (f'[policy."/{PLACE}x"]\naudit = true\n', "orders#1 cannot enforce it: override of "),
        (f'[policy."/{PLACE}"]\ntoken = {{}}\n', "believes no issuer"),
    ):
        written.say(table)
        refused = hauberk(written.folder, "policy", "apply")
        assert refused.returncode == 1
        assert why in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert written.shown(PLACE)["overridden"] == []


def test_diff_tells_what_would_change_and_ends_with_1(written: Written) -> None:
    assert written.told("policy", "diff") == []
    assert hauberk(written.folder, "policy", "diff").stdout == "what is enforced is what is written\n"
    other = written.folder / "other.toml"
    text = f'{written.text}\n{CLOSED}quota = {{ limit = 5, per = "1s" }}\nshadow = ["quota"]\n'
    other.write_text(text)
    found = written.told("policy", "diff", "--mesh", "other.toml", code=1)
    line = text.splitlines().index('callers = ["orders"]') + 1
    assert [(one["method"], one["field"], one["where"]) for one in found] == [
        (f"/{LIST}", "callers", f"other.toml:{line}"),
        (f"/{LIST}", "shadow", f"other.toml:{line + 2}"),
    ]
    assert (found[0]["enforced"], found[0]["written"]) == (["gateway", "orders"], ["orders"])
    assert found[0]["replicas"] == ["spiffe://shop.test/catalog#1"]
    told = hauberk(written.folder, "policy", "diff", "--mesh", "other.toml")
    assert told.returncode == 1
    assert told.stdout.splitlines() == [
        f"/{LIST}, as catalog#1 enforce it",
        f"  callers: gateway, orders  ->  orders  (other.toml:{line})",
        f"  shadow: none  ->  quota 5 in 1 s, 5 at once, by caller  (other.toml:{line + 2})",
    ]


def test_diff_compares_contracts_on_disk_with_those_that_are_enforced(
    written: Written, tmp_path: Path
) -> None:
    """A contract of orders that was changed and is not built yet: one method other, one new, two gone."""
    contract = tmp_path / "shop" / "orders" / "v1" / "orders.proto"
    contract.parent.mkdir(parents=True)
    contract.write_text(
        'syntax = "proto3";\npackage shop.orders.v1;\nimport "hauberk/policy/v1/policy.proto";\n'
        "message M {}\nservice Orders {\n"
        '  option (hauberk.policy.v1.defaults) = { callers: "gateway" deadline { max { seconds: 9 } } };\n'
        "  rpc GetOrder(M) returns (M) { option idempotency_level = NO_SIDE_EFFECTS; }\n"
        "  rpc CancelOrder(M) returns (M);\n}\n"
    )
    found = written.told("policy", "diff", "--protos", str(tmp_path), code=1)
    orders = {(one["method"].rpartition("/")[2], one["field"]): one for one in found}
    assert set(orders) == {
        *(("GetOrder", "deadline"), ("CancelOrder", "method")),
        *(("PlaceOrder", "method"), ("WatchOrder", "method")),
    }
    assert orders["GetOrder", "deadline"]["written"]["max_s"] == 9
    assert orders["GetOrder", "deadline"]["where"] == f"{contract}:6"
    assert (orders["CancelOrder", "method"]["enforced"], orders["CancelOrder", "method"]["written"]) == (
        False,
        True,
    )
    assert (orders["WatchOrder", "method"]["enforced"], orders["WatchOrder", "method"]["written"]) == (
        True,
        False,
    )


def _until(holds: Any) -> None:
    ends = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.05)
