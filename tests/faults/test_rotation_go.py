"""The same for a client that is none of ours: gRPC-Go's own xDS, with our bootstrap and our files."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hauberk
from hauberk.bootstrap import bootstrap
from tests.mesh.fleet import fleet
from tests.mesh.running import COMMAND, REPOSITORY, clean_environment, shop

SOURCES = Path(__file__).parent / "go"
LIFETIME_S = 10
BUILD_S = 280.0


@pytest.fixture(scope="module")
def go_client(soaking: bool) -> Path:
    """The client, built once for each state of its sources; only `make soak` takes the time to."""
    digest = hashlib.sha256()
    for name in ("main.go", "go.mod", "go.sum"):
        digest.update((SOURCES / name).read_bytes())
    client = REPOSITORY / ".tools" / "bin" / f"go-client-{digest.hexdigest()[:12]}"
    if client.exists():
        return client
    if not soaking:
        pytest.skip(
            "the client is not built: make soak ARGS=tests/faults/test_rotation_go.py builds and keeps it"
        )
    if shutil.which("go") is None:
        pytest.skip("no Go here: apt-get install golang-go")
    print("building the Go client, a minute or two", file=sys.stderr)
    fresh = client.with_suffix(f".{os.getpid()}")
    built = subprocess.run(
        ["go", "build", "-trimpath", "-o", fresh, "."],
        cwd=SOURCES,
        env=os.environ | {"GOFLAGS": ""},
        text=True,
        capture_output=True,
        timeout=BUILD_S,
        check=False,
    )
    if built.returncode != 0:
        pytest.skip(f"the Go client cannot be built: {built.stderr.strip().splitlines()[-1]}")
    fresh.replace(client)
    return client


@pytest.mark.soak
@pytest.mark.timeout(BUILD_S + 120)
async def test_a_go_client_lives_through_rotation_and_root_roll(
    tmp_path: Path, soaking: bool, go_client: Path
) -> None:
    seconds, rotations = (60, 5) if soaking else (22, 2)
    toml = shop(svid_lifetime=f"{LIFETIME_S}s", replicas=2)
    services = ["catalog-1", "catalog-2", "payments-1", "payments-2"]
    async with fleet(tmp_path, toml, start=services) as mesh:
        gateway = await mesh.member("gateway")
        serials = {gateway.credentials.value.svid.leaf.serial_number}
        gateway.credentials.subscribe(lambda held: serials.add(held.svid.leaf.serial_number))
        client = await asyncio.create_subprocess_exec(
            go_client,
            f"-seconds={seconds}",
            env=clean_environment() | {"GRPC_XDS_BOOTSTRAP": str(_bootstrap(gateway, tmp_path))},
            stdout=subprocess.PIPE,
        )
        assert client.stdout is not None
        async with asyncio.timeout(30):
            assert await client.stdout.readline() == b"open\n"
        rolled = await asyncio.create_subprocess_exec(
            *COMMAND, "ca", "roll", "--json", cwd=tmp_path, env=clean_environment(), stdout=subprocess.PIPE
        )
        steps, _ = await rolled.communicate()
        async with asyncio.timeout(seconds + 15):
            summary = json.loads(await client.stdout.readline())
            assert await client.wait() == 0
    print("go:", json.dumps(summary), file=sys.stderr)
    taken = [json.loads(line).get("step") for line in steps.splitlines()]
    assert [step for step in taken if step] == ["prepare", "activate", "retire"]
    assert summary["failed"] == {}, summary["samples"]
    assert sum(summary["calls"].values()) > 20 * seconds
    assert summary["streams_reopened"] >= rotations, "connections end by age"
    assert len(summary["addresses"]) == len(services), "all of them are called"
    assert len(serials) - 1 >= rotations


def _bootstrap(member: hauberk.Mesh, folder: Path) -> Path:
    """What our own channels are given, in a file."""
    file = folder / "bootstrap.json"
    tenure = member._tenure
    file.write_text(
        bootstrap(
            control_targets=tenure.membership.control_targets,
            node_id=f"{member.id}#go",
            spiffe_id=member.id,
            store=tenure.store,
            schedule=tenure.schedule,
        )
    )
    return file
