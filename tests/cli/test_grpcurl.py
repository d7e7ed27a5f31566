"""The real grpcurl, through scripts/grpcurl.sh: admitted with the mesh's certificates, refused without."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.mesh.running import REPOSITORY, clean_environment, replicas

GRPCURL = REPOSITORY / ".tools" / "bin" / "grpcurl"
SCRIPT = REPOSITORY / "scripts" / "grpcurl.sh"

installed = pytest.mark.skipif(not GRPCURL.exists(), reason="grpcurl is not installed: make grpcurl")


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=clean_environment(), text=True, capture_output=True, check=False, timeout=60
    )


@installed
def test_list_names_the_services_of_a_workload(shop_folder: Path) -> None:
    listed = run(shop_folder, SCRIPT, "orders", "list")
    assert listed.returncode == 0, listed.stderr
    assert "shop.orders.v1.Orders" in listed.stdout.splitlines()


@installed
def test_describe_shows_the_contract_with_its_policy(shop_folder: Path) -> None:
    described = run(shop_folder, SCRIPT, "orders", "describe", "shop.orders.v1.Orders")
    assert described.returncode == 0, described.stderr
    assert "rpc PlaceOrder" in described.stdout
    assert 'callers: [ "gateway", "batch/*" ]' in described.stdout


@installed
def test_a_unary_call_in_a_workloads_name(shop_folder: Path) -> None:
    called = run(
        shop_folder, SCRIPT, "--as", "gateway", "-d", '{"sku": "RIVET-500"}', "catalog",
        "shop.catalog.v1.Catalog/GetProduct",
    )  # fmt: skip
    assert called.returncode == 0, called.stderr
    assert json.loads(called.stdout)["sku"] == "RIVET-500"


@installed
def test_a_streaming_call_in_a_workloads_name(shop_folder: Path) -> None:
    called = run(shop_folder, SCRIPT, "--as", "gateway", "catalog", "shop.catalog.v1.Catalog/ListProducts")
    assert called.returncode == 0, called.stderr
    assert called.stdout.count('"sku"') > 5


@installed
def test_a_stream_of_messages_as_the_operator(shop_folder: Path) -> None:
    product = {"sku": "GRPCURL-1", "name": "n", "price": {"currency": "EUR", "minor_units": 3}, "stock": 4}
    messages = json.dumps({"product": product}) + json.dumps({"product": product | {"sku": "GRPCURL-2"}})
    called = run(shop_folder, SCRIPT, "-d", messages, "catalog", "shop.catalog.v1.Catalog/ImportProducts")
    assert called.returncode == 0, called.stderr
    assert sum(json.loads(called.stdout).values()) == 2


@installed
def test_the_operator_is_refused_what_is_for_workloads(shop_folder: Path) -> None:
    refused = run(shop_folder, SCRIPT, "catalog", "shop.catalog.v1.Catalog/ListProducts")
    assert refused.returncode != 0
    assert "Code: PermissionDenied" in refused.stderr


@installed
@pytest.mark.parametrize("how", ["-plaintext", "-insecure"])
def test_without_the_wrapper_nothing_is_served(shop_folder: Path, how: str) -> None:
    """No certificate, and no TLS: neither gets as far as a handler."""
    (address,) = [row["address"] for row in replicas(shop_folder) if row["workload"] == "orders"]
    refused = run(shop_folder, GRPCURL, how, "-connect-timeout", "5", address, "list")
    assert refused.returncode != 0
    assert "Failed to dial target host" in refused.stderr
    assert refused.stdout == ""


@installed
def test_a_workload_that_does_not_serve_is_named(shop_folder: Path) -> None:
    refused = run(shop_folder, SCRIPT, "warehouse", "list")
    assert refused.returncode == 1
    assert refused.stderr == "grpcurl.sh: no replica of warehouse serves; next: hauberk ps\n"


@installed
def test_without_a_mesh_it_says_how_to_start_one(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text('trust_domain = "shop.test"\n')
    refused = run(tmp_path, SCRIPT, "orders", "list")
    assert refused.returncode == 1
    assert "no control plane runs" in refused.stderr
    assert "next: start it: hauberk up" in refused.stderr
    assert "Traceback" not in refused.stderr


@installed
@pytest.mark.parametrize("option", ["-cert", "-key", "-cacert", "-authority", "-insecure", "-plaintext"])
def test_what_it_fills_in_cannot_be_given(tmp_path: Path, option: str) -> None:
    refused = run(tmp_path, SCRIPT, option, "x", "orders", "list")
    assert refused.returncode == 1
    assert f"{option} is filled in here" in refused.stderr


def test_its_help_tells_how_to_call_it(tmp_path: Path) -> None:
    assert "scripts/grpcurl.sh orders list" in run(tmp_path, SCRIPT, "--help").stdout
    assert run(tmp_path, SCRIPT).returncode == 2
