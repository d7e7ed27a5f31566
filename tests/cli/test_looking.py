"""What looks at a running mesh and steers it: ps, policy, clients, health, invite, revoke, identity."""

import json
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hauberk.certs.identity import SpiffeId
from hauberk.certs.store import CredentialStore
from hauberk.cli.dial import dialled
from hauberk.cli.state import State
from hauberk.protos.third_party.envoy.config.core.v3.base_pb2 import Node
from hauberk.protos.third_party.envoy.service.discovery.v3.discovery_pb2 import (
    DiscoveryRequest,
    DiscoveryResponse,
)
from tests.mesh.running import COMMAND, clean_environment, hauberk

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


def told(folder: Path, *arguments: str) -> Any:
    """What a command that must succeed answers with --json."""
    done = hauberk(folder, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_ps_lists_every_replica_with_its_identity_and_address(shop_folder: Path) -> None:
    rows = {row["workload"]: row for row in told(shop_folder, "ps")}
    assert set(rows) == {"control", "catalog", "payments", "orders"}
    assert rows["orders"]["spiffe_id"] == "spiffe://shop.test/orders"
    assert rows["orders"]["contracts"] == ["shop.orders.v1.Orders"]
    assert rows["orders"]["address"].startswith("127.0.0.1:")
    assert rows["orders"]["agent"].startswith("hauberk ")
    assert {row["status"] for row in rows.values()} == {"serving"}


def test_ps_for_people_is_a_table(shop_folder: Path) -> None:
    head, *rows = hauberk(shop_folder, "ps").stdout.splitlines()
    assert head.split()[:4] == ["WORKLOAD", "REPLICA", "IDENTITY", "ADDRESS"]
    assert len(rows) == 4


def test_ps_lists_what_should_serve_and_does_not(shop_folder: Path) -> None:
    """Another mesh.toml over the same state: one workload more than runs."""
    text = (shop_folder / "mesh.toml").read_text()
    wider = shop_folder / "wider.toml"
    wider.write_text(text + '\n[workloads.ledger]\ncommand = ["x"]\nserves = ["shop.ledger.v1.Ledger"]\n')
    rows = {row["workload"]: row for row in told(shop_folder, "ps", "--mesh", str(wider))}
    assert rows["ledger"]["status"] == "absent"


@pytest.mark.parametrize("arguments", [["ps"], ["invite", "x"], ["identity", "gateway"]], ids=" ".join)
def test_a_mesh_file_beside_another_meshs_state_is_refused(shop_folder: Path, arguments: list[str]) -> None:
    told(shop_folder, "identity", "gateway")
    (shop_folder / "other.toml").write_text('trust_domain = "other.test"\n')
    refused = hauberk(shop_folder, *arguments, "--mesh", "other.toml")
    assert refused.returncode == 1
    assert re.match(
        r"hauberk: \S+/other.toml is mesh other.test, but .* is of mesh shop.test\n", refused.stderr
    )
    assert refused.stdout == ""


def test_policy_show_prints_what_is_enforced(shop_folder: Path) -> None:
    (method,) = told(shop_folder, "policy", "show", "shop.orders.v1.Orders/PlaceOrder")
    assert method["callers"] == ["gateway", "batch/*"]
    assert method["deadline"] == {"required": True, "default_s": None, "max_s": 5.0}
    assert method["message"] == {"max_bytes": 65_536, "max_items": 1000}
    per_second = {"limit": 500, "per_s": 1, "burst": 1000, "key": "caller", "header": "", "cost": ""}
    assert (method["quota"], method["priority"]) == ([per_second], "high")
    assert (method["token"], method["audit"]) == (None, False)
    assert (method["idempotency"], method["origin"]) == ("idempotent", "method option")
    assert method["replicas"] == ["spiffe://shop.test/orders#1"]


def test_policy_show_filters_by_service(shop_folder: Path) -> None:
    methods = told(shop_folder, "policy", "show", "shop.payments.v1.Payments")
    assert {method["method"].rpartition("/")[0] for method in methods} == {"/shop.payments.v1.Payments"}
    assert len(methods) == 5


def test_policy_show_for_people_spells_deadlines_out(shop_folder: Path) -> None:
    text = hauberk(shop_folder, "policy", "show", "shop.catalog.v1.Catalog").stdout
    assert "required, max 5 s" in text
    assert "default 5 s, max 10 s" in text
    assert "256 KiB, 10000 items" in text


def test_policy_show_of_what_nobody_announced_says_so(shop_folder: Path) -> None:
    refused = hauberk(shop_folder, "policy", "show", "a.B")
    assert refused.returncode == 1
    assert refused.stderr.startswith("hauberk: nobody has announced a.B")


async def test_a_client_that_rejects_shows_with_its_words(shop_folder: Path) -> None:
    """A stream is opened by hand as the gateway, which answers a Cluster with a NACK."""
    told(shop_folder, "identity", "gateway")
    state = State.beside(shop_folder / "mesh.toml")
    credentials = CredentialStore(state.identity("gateway")).load()
    assert credentials is not None
    control = SpiffeId.of("shop.test", "control")
    async with dialled(state.running().mesh, control, credentials) as channel:
        stream: Any = channel.stream_stream(
            ADS,
            request_serializer=DiscoveryRequest.SerializeToString,
            response_deserializer=DiscoveryResponse.FromString,
        )()
        node = Node(id="by-hand", user_agent_name="a test", user_agent_version="7")
        await stream.write(DiscoveryRequest(node=node, type_url=CLUSTER, resource_names=["orders"]))
        response = await stream.read()
        rejection = DiscoveryRequest(
            type_url=CLUSTER, resource_names=["orders"], response_nonce=response.nonce
        )
        rejection.error_detail.message = "[field:lb_policy error:LB policy is not supported]"
        await stream.write(rejection)
        # An answer to a later question: the control plane has read what came before it.
        await stream.write(DiscoveryRequest(type_url=ENDPOINTS, resource_names=["orders"]))
        await stream.read()
        (client,) = [one for one in told(shop_folder, "clients") if one["node_id"] == "by-hand"]
        text = hauberk(shop_folder, "clients").stdout
        stream.cancel()
    assert client["spiffe_id"] == "spiffe://shop.test/gateway"
    assert (client["user_agent"], client["user_agent_version"]) == ("a test", "7")
    (kind,) = [one for one in client["types"] if one["type"] == "Cluster"]
    assert kind["nack_detail"] == "[field:lb_policy error:LB policy is not supported]"
    assert kind["version_nacked"] == kind["version_sent"]
    assert "REJECTED" in text
    assert "  [field:lb_policy error:LB policy is not supported]" in text


def test_health_asks_every_workload(shop_folder: Path) -> None:
    answers = told(shop_folder, "health")
    assert {answer["workload"]: answer["health"] for answer in answers} == dict.fromkeys(
        ("control", "catalog", "payments", "orders"), "SERVING"
    )


def test_health_of_a_contract_that_is_not_served_there_fails(shop_folder: Path) -> None:
    asked = hauberk(shop_folder, "health", "orders", "--service", "shop.catalog.v1.Catalog")
    assert asked.returncode == 1
    assert "NOT_FOUND" in asked.stdout


def test_a_container_probes_itself_with_its_own_credentials(shop_folder: Path) -> None:
    (row,) = [row for row in told(shop_folder, "ps") if row["workload"] == "orders"]
    own = State.beside(shop_folder / "mesh.toml").workload("orders", 1)
    probed = subprocess.run(
        [*COMMAND, "health", row["address"]],
        cwd=shop_folder,
        env=clean_environment() | {"HAUBERK_STATE_DIR": str(own)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert probed.returncode == 0, probed.stderr
    assert re.search(r"orders +127.0.0.1:\d+ +SERVING", probed.stdout)


def test_an_address_is_not_asked_without_credentials_of_its_own(shop_folder: Path) -> None:
    assert "set HAUBERK_STATE_DIR" in hauberk(shop_folder, "health", "127.0.0.1:1").stderr


def test_invite_prints_a_token_and_for_whom_it_is(shop_folder: Path) -> None:
    done = hauberk(shop_folder, "invite", "batch/nightly", "--ttl", "1m")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) == 48
    assert done.stdout.startswith("hbk1.")
    assert "for spiffe://shop.test/batch/nightly, once, until " in done.stderr
    assert "it may serve: what it might before (if it is new: nothing)" in done.stderr


def test_an_invitation_takes_contracts_away_only_when_it_says_so(shop_folder: Path) -> None:
    def bound(name: str, *more: str) -> subprocess.CompletedProcess[str]:
        return hauberk(shop_folder, "invite", name, *more)

    assert bound("keeper", "--serves", "batch.v1.Kept").returncode == 0
    assert bound("keeper").returncode == 0
    refused = bound("taker", "--serves", "batch.v1.Kept")
    assert refused.stderr.startswith("hauberk: batch.v1.Kept may be served by keeper alone\n")
    assert "hauberk invite keeper --serves-nothing" in refused.stderr
    assert "it may serve: nothing" in bound("keeper", "--serves-nothing").stderr
    assert bound("taker", "--serves", "batch.v1.Kept").returncode == 0


def test_invite_says_what_else_a_process_needs_to_join(shop_folder: Path) -> None:
    said = hauberk(shop_folder, "invite", "batch/hourly", "--serves", "batch.v1.Hourly").stderr
    assert "it may serve: batch.v1.Hourly" in said
    needed = dict(word.split("=", 1) for word in said.split() if "=" in word)
    assert needed["HAUBERK_NAME"] == "batch/hourly"
    assert Path(needed["HAUBERK_ROOTS"]).is_file()
    assert needed["HAUBERK_ENROLMENT"].startswith("127.0.0.1:")
    assert {"HAUBERK_STATE_DIR", "HAUBERK_JOIN_TOKEN_FILE", "GRPC_SSL_CIPHER_SUITES"} < needed.keys()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["Batch"], "path is not lower-case segments"),
        (["control"], "reserved"),
        (["x", "--ttl", "soon"], "--ttl is no duration"),
        (["x", "--serves-nothing", "--serves", "a.B"], "--serves-nothing and --serves exclude each other"),
    ],
)
def test_an_invitation_that_cannot_be_is_refused(
    shop_folder: Path, arguments: list[str], complaint: str
) -> None:
    refused = hauberk(shop_folder, "invite", *arguments)
    assert refused.returncode == 1
    assert complaint in refused.stderr
    assert refused.stdout == ""


def test_revoked_means_no_call_from_now_on(shop_folder: Path) -> None:
    listing = ("call", "grpc.health.v1.Health/Check", "--to", "orders", "--as", "thief")
    assert hauberk(shop_folder, *listing).returncode == 0
    assert told(shop_folder, "revoke", "thief", "--reason", "test") == {"revoked": "spiffe://shop.test/thief"}
    refused = hauberk(shop_folder, *listing)
    assert refused.returncode == 1
    assert "REVOKED of hauberk" in refused.stderr


def test_an_identity_is_enrolled_once_and_kept_to_ourselves(shop_folder: Path) -> None:
    first, again = (told(shop_folder, "identity", "batch/daily") for _ in range(2))
    assert first == again
    assert first["spiffe_id"] == "spiffe://shop.test/batch/daily"
    key = Path(first["key"])
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.resolve().parent.stat().st_mode) == 0o700
    chain = key.resolve().read_bytes()
    told(shop_folder, "identity", "batch/daily")
    assert key.resolve().read_bytes() == chain
