"""`hauberk call`: any method, any of the four shapes, in a name of one's choice, with errors that explain."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.mesh.running import COMMAND, clean_environment, hauberk

CATALOG = "shop.catalog.v1.Catalog"
PAYMENTS = "shop.payments.v1.Payments"


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return hauberk(folder, "call", *arguments)


def answers(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """The messages that a call which must succeed is answered with."""
    called = call(folder, *arguments, "--json")
    assert called.returncode == 0, called.stderr
    return [json.loads(line) for line in called.stdout.splitlines()]


def test_one_message_for_one(shop_folder: Path) -> None:
    (product,) = answers(
        shop_folder, f"{CATALOG}/GetProduct", "-d", '{"sku": "RIVET-500"}', "--as", "gateway"
    )
    assert product["price"] == {"currency": "EUR", "minorUnits": "949"}


def test_a_stream_for_one_message(shop_folder: Path) -> None:
    products = answers(shop_folder, f"{CATALOG}/ListProducts", "--as", "gateway")
    assert [product["sku"] for product in products] == sorted(product["sku"] for product in products)
    assert len(products) > 5


def test_one_message_for_a_stream(shop_folder: Path) -> None:
    """Operators may import: no --as."""
    product = {"sku": "CALL-1", "name": "n", "price": {"currency": "EUR", "minorUnits": 3}, "stock": 4}
    two = json.dumps({"product": product}) + json.dumps({"product": product | {"sku": "CALL-2"}})
    (done,) = answers(shop_folder, f"{CATALOG}/ImportProducts", "-d", two)
    assert done.get("added", 0) + done.get("replaced", 0) == 2


def test_a_stream_for_a_stream(shop_folder: Path) -> None:
    several = '{"payment_id": "a"}\n{"payment_id": "b"} {"paymentId": "c"}'
    replies = answers(shop_folder, f"{PAYMENTS}/Reconcile", "-d", several, "--as", "gateway")
    assert [reply["paymentId"] for reply in replies] == ["a", "b", "c"]


def test_messages_are_read_from_standard_input(shop_folder: Path) -> None:
    called = subprocess.run(
        [*COMMAND, "call", f"{CATALOG}/GetProduct", "-d", "@", "--as", "gateway"],
        cwd=shop_folder,
        env=clean_environment(),
        input='{"sku": "RIVET-500"}',
        text=True,
        capture_output=True,
        check=False,
    )
    assert json.loads(called.stdout)["sku"] == "RIVET-500"


def test_built_in_services_are_called_at_a_workload(shop_folder: Path) -> None:
    assert answers(shop_folder, "grpc.health.v1.Health/Check", "--to", "orders") == [{"status": "SERVING"}]


def test_built_in_services_need_to_know_which_workload(shop_folder: Path) -> None:
    refused = call(shop_folder, "grpc.health.v1.Health/Check")
    assert "every workload serves grpc.health.v1.Health" in refused.stderr
    assert "--to NAME" in refused.stderr


def test_the_control_planes_own_contracts_are_called_there(shop_folder: Path) -> None:
    (answer,) = answers(shop_folder, "hauberk.control.v1.Admin/ListRoots")
    assert answer["roots"][0]["state"] == "active"


def test_who_may_not_call_is_told_who_may(shop_folder: Path) -> None:
    refused = call(shop_folder, f"{CATALOG}/GetProduct")
    assert refused.returncode == 1
    assert f"PERMISSION_DENIED: operators/local may not call {CATALOG}/GetProduct" in refused.stderr
    assert "next: it admits gateway, orders; call in such a name: --as NAME" in refused.stderr


def test_an_error_as_json_has_code_reason_and_facts(shop_folder: Path) -> None:
    refused = call(shop_folder, f"{CATALOG}/GetProduct", "-d", '{"sku": "NO"}', "--as", "gateway", "--json")
    assert refused.returncode == 1
    error = json.loads(refused.stdout)["error"]
    assert error["code"] == "NOT_FOUND"
    assert error["details"][0]["reason"] == "PRODUCT_UNKNOWN"


def test_a_deadline_goes_with_the_call(shop_folder: Path) -> None:
    refused = call(shop_folder, f"{CATALOG}/WatchProducts", "--as", "gateway", "--deadline", "0.5", "--json")
    assert json.loads(refused.stdout.splitlines()[-1])["error"]["code"] == "DEADLINE_EXCEEDED"


def test_a_name_gets_no_right_to_serve_by_being_called_with(shop_folder: Path) -> None:
    """The credentials are enrolled by an invitation that leaves bindings as they are."""
    assert hauberk(shop_folder, "identity", "orders").returncode == 0
    rows = json.loads(hauberk(shop_folder, "ps", "--json").stdout)
    assert {row["workload"]: row["contracts"] for row in rows}["orders"] == ["shop.orders.v1.Orders"]


@pytest.mark.parametrize(
    ("arguments", "complaint", "remedy"),
    [
        (["GetProduct"], "not SERVICE/METHOD: 'GetProduct'", "hauberk call --help"),
        (["a.B/C"], "nobody serves a.B now", "hauberk ps"),
        ([f"{CATALOG}/Get"], f"{CATALOG} has no method 'Get'", f"hauberk policy show {CATALOG}"),
        ([f"{CATALOG}/GetProduct", "-d", "{sku}"], "-d is not JSON", "quote it"),
        ([f"{CATALOG}/GetProduct", "-d", '{"s": 1}'], 'no field named "s"', "fields: sku"),
        ([f"{CATALOG}/GetProduct", "-d", "{}{}"], "takes one message, -d has 2", "leave one"),
        ([f"{CATALOG}/GetProduct", "--as", "Gate"], "nobody can be called 'Gate'", ""),
        ([f"{CATALOG}/GetProduct", "--as", "control"], "control", ""),
        (["grpc.health.v1.Health/Check", "--to", "x"], "no replica of x serves now", "hauberk ps"),
    ],
)
def test_what_is_wrong_is_said_with_the_next_step(
    shop_folder: Path, arguments: list[str], complaint: str, remedy: str
) -> None:
    refused = call(shop_folder, *arguments)
    assert refused.returncode == 1
    assert complaint in refused.stderr
    assert remedy in refused.stderr
    assert "Traceback" not in refused.stderr
