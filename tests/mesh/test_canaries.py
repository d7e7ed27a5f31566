"""Secrets put through every path of a real mesh appear in no log, metric, error or console of it."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hauberk.interceptors.scrubbing import HIDDEN
from tests.collector import Collector, collecting
from tests.mesh.running import REPOSITORY, up_once

CANARIES = {
    "token": "canary-token-6d1f",
    "api key": "canary-apikey-2b7e",
    "password": "canary-password-91ac",
    "database": "canary-database-77d0",
    "environment": "canary-environment-c41d",
    "card": "canary-card-0f3b",
    "payload": "canary-payload-5ab2",
    "key": "MIGHcanarykeyAgEAMBMGByqGSM49",
}
HOWS = ("ok", "log", "text", "chain", "group", "callee", "exit")
SHAPES = ("Put", "List", "Load", "Swap")

PROTO = """
syntax = "proto3";
package vault.v1;
import "hauberk/policy/v1/policy.proto";

service Vault {
  option (hauberk.policy.v1.defaults) = {
    callers: ["visitor", "operators/*"] deadline { default { seconds: 5 } } audit: true
  };
  rpc Put(Item) returns (Item);
  rpc List(Item) returns (stream Item);
  rpc Load(stream Item) returns (Item);
  rpc Swap(stream Item) returns (stream Item);
  rpc Locked(Item) returns (Item) {
    option (hauberk.policy.v1.policy) = { callers: "nobody" };
  }
}

message Item {
  string how = 1;
  string payload = 2;
  string card = 3 [debug_redact = true];
  Item inner = 4;
}
"""

SERVER = """
import logging, os
import grpc, hauberk
from vault.v1 import vault_pb2, vault_pb2_grpc

KEY = "-----BEGIN PRIVATE KEY-----\\\\n{key}\\\\n-----END PRIVATE KEY-----"
log = logging.getLogger("vault")


def secrets(item):
    token = dict(hauberk.current_call().metadata)["authorization"]
    return (
        f"db password is {password}; {{os.environ['DATABASE_URL']}}; {{os.environ['VAULT_TOKEN']}}; {{KEY}}; "
        f"{{item.card}} and {{item.inner.card}}; {{token}}; api_key={api_key}; what happened"
    )


def act(item):
    match item.how:
        case "log":
            item.ClearField("payload")
            log.warning("put %s", item)
            log.warning("%s", secrets(item).replace(item.card, "it"))
            try:
                raise KeyError(secrets(item))
            except KeyError:
                log.exception("it failed")
        case "text":
            raise ValueError(secrets(item))
        case "chain":
            try:
                raise ValueError(secrets(item))
            except ValueError as error:
                raise RuntimeError(secrets(item)) from error
        case "group":
            raise ExceptionGroup(secrets(item), [ValueError(secrets(item)), OSError(secrets(item))])
        case "callee":
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata(("x", secrets(item))),
                details=secrets(item), debug_error_string=secrets(item),
            )
        case "exit":
            raise SystemExit(secrets(item))
    return item


class Vault(vault_pb2_grpc.VaultServicer):
    async def Put(self, request, context):
        return act(request)

    async def List(self, request, context):
        yield act(request)

    async def Load(self, requests, context):
        return [act(request) async for request in requests][-1]

    async def Swap(self, requests, context):
        async for request in requests:
            yield act(request)


async def main():
    async with hauberk.join() as mesh:
        server = mesh.server()
        vault_pb2_grpc.add_VaultServicer_to_server(Vault(), server)
        await server.serve()


hauberk.run(main)
"""

VISITOR = """
import asyncio, os, subprocess, sys, urllib.request
import grpc, hauberk
from vault.v1 import vault_pb2, vault_pb2_grpc

METADATA = (
    ("authorization", "Bearer {token}"), ("x-api-key", "{api_key}"), ("cookie", "a={token}"),
    ("note-bin", b"{payload}"),
)
ITEM = dict(payload="{payload}", card="{card}", inner=vault_pb2.Item(card="{card}"))


async def one(stub, shape, how):
    item = vault_pb2.Item(how=how, **ITEM)
    call = getattr(stub, shape)
    made = call(iter([item]) if shape in ("Load", "Swap") else item, timeout=5, metadata=METADATA)
    try:
        if shape in ("List", "Swap"):
            async for _ in made:
                pass
        else:
            await made
        print("answered", shape, how)
    except grpc.aio.AioRpcError as error:
        print("ended", shape, how, error.code().name, error.details())
        print(repr((str(error), error.debug_error_string(), error.trailing_metadata(), made)))


async def main():
    async with hauberk.join() as mesh:
        stub = vault_pb2_grpc.VaultStub(mesh.channel)
        for how in {hows!r}:
            for shape in {shapes!r}:
                await one(stub, shape, how)
        await one(stub, "Locked", "ok")
    for arguments in (
        ["call", "vault.v1.Vault/Put", "-d", '{{"card": "{card}", "inner": {{"card": "{card}"}}}}'],
        ["call", "vault.v1.Vault/Put", "--json", "-d", '{{"card": "{card}"}}'],
        ["call", "vault.v1.Vault/Locked", "-d", '{{"card": "{card}"}}'],
        ["ps"], ["policy", "show"], ["clients"], ["doctor"],
    ):
        done = await asyncio.create_subprocess_exec(
            sys.argv[1], *arguments,
            env={{name: value for name, value in os.environ.items() if not name.startswith("HAUBERK_")}},
        )
        print("command", arguments[0], await done.wait())
    for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
        request = urllib.request.Request("http://127.0.0.1:{port}/metrics", headers={{"Accept": accept}})
        print(urllib.request.urlopen(request, timeout=10).read().decode())


hauberk.run(main)
"""

MESH = """
trust_domain = "own.test"

[workloads.vault]
command = ["python", "server.py"]
serves = ["vault.v1.Vault"]
env = {{ PYTHONPATH = "stubs", HAUBERK_METRICS_LISTEN = "{port}", OTEL_EXPORTER_OTLP_ENDPOINT = "{collector}", VAULT_TOKEN = "{environment}", DATABASE_URL = "postgresql://vault:{database}@db/vault" }}

[once]
workload = "visitor"
command = ["python", "visitor.py", "{hauberk}"]
env = {{ PYTHONPATH = "stubs" }}
"""  # noqa: E501 - a table of TOML stands in one line


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture
def project(tmp_path: Path, collector: Collector) -> Path:
    """A user's folder: a contract, a server and a caller."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    given: dict[str, Any] = {name.replace(" ", "_"): canary for name, canary in CANARIES.items()}
    given |= {
        "port": port,
        "collector": collector.endpoint,
        "hows": HOWS,
        "shapes": SHAPES,
        "hauberk": Path(sys.executable).with_name("hauberk"),
    }
    for name, text in {"server.py": SERVER, "visitor.py": VISITOR, "mesh.toml": MESH}.items():
        (tmp_path / name).write_text(text.format(**given))
    proto = tmp_path / "protos" / "vault" / "v1" / "vault.proto"
    proto.parent.mkdir(parents=True)
    proto.write_text(PROTO)
    (tmp_path / "stubs").mkdir()
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path}/protos", f"-I{REPOSITORY}/protos",
         f"--python_out={tmp_path}/stubs", f"--grpc_python_out={tmp_path}/stubs", "vault/v1/vault.proto"],
        check=True,
    )  # fmt: skip
    return tmp_path


def test_no_canary_leaves_the_calls_it_was_put_into(project: Path, collector: Collector) -> None:
    done = up_once(project)
    said = done.stdout + done.stderr
    logs = {path: path.read_text() for path in (project / ".hauberk").rglob("*.log*") if path.is_file()}
    for name, canary in CANARIES.items():
        assert canary not in said, f"{name} on the console"
        for path, text in logs.items():
            assert canary not in text, f"{name} in {path}"
        assert all(canary.encode() not in each.SerializeToString() for each in collector.requests), name
    assert done.returncode == 0, said
    made = [span.name for span in collector.spans if span.name.startswith("/vault.v1.Vault/")]
    assert len(made) == len(HOWS) * len(SHAPES) + 3, "and the three that hauberk call made"
    each_path_was_taken(said, logs)


def each_path_was_taken(said: str, logs: dict[Path, str]) -> None:
    for shape in SHAPES:
        assert f"answered {shape} ok" in said
        assert f"answered {shape} log" in said
        for how in ("text", "chain", "group", "callee", "exit"):
            (line,) = [each for each in said.splitlines() if f"ended {shape} {how} INTERNAL" in each]
            trace_id = line.rpartition(" ")[2]
            (log,) = [text for path, text in logs.items() if path.name == "vault-1.log"]
            assert f"/vault.v1.Vault/{shape} failed, trace {trace_id}: " in log
    assert "ended Locked ok PERMISSION_DENIED" in said
    assert log.count(f"db password is {HIDDEN}; postgresql://{HIDDEN}@db/vault; {HIDDEN}; {HIDDEN}; ") >= 40
    assert log.count("what happened") >= 40, "the rest of the text is there"
    assert f'"card": "{HIDDEN}"' in said.replace("\n", "").replace("  ", " ")
    for command in ("call", "ps", "policy", "clients"):
        assert f"command {command} 0" in said
    assert 'grpc_server_call_started_total{grpc_method="vault.v1.Vault/Put"}' in said
    assert "# {" in said, "exemplars"
    audited = {path.name: path for path in logs if path.parent.name == "audit" and "vault" in str(path)}
    assert set(audited) == {"calls.log", "refusals.log"}
    ended = [json.loads(line) for line in logs[audited["calls.log"]].splitlines()]
    assert len([line for line in ended if line["event.action"] == "ended"]) == len(HOWS) * len(SHAPES) + 2
    assert "CALLER_NOT_ALLOWED" in logs[audited["refusals.log"]]
    by_control = [
        text for path, text in logs.items() if path.parent.name == "audit" and "control" in str(path)
    ]
    assert any("/hauberk.control.v1.Admin/Invite" in text for text in by_control)
