"""`hauberk ps`: every replica announced, and every workload of mesh.toml that should be and is not."""

import asyncio
from typing import Any

import click

from hauberk.certs.identity import SpiffeId
from hauberk.cli.dial import CALL_S, control_plane
from hauberk.cli.local_mesh import STATUS
from hauberk.cli.mesh_file import MeshFile
from hauberk.cli.options import instant, json_option, mesh_option, print_json, table
from hauberk.cli.state import State
from hauberk.protos.hauberk.control.v1 import admin_pb2

_HEADS = ("WORKLOAD", "REPLICA", "IDENTITY", "ADDRESS", "STATUS", "SVID UNTIL", "CONTRACTS")


@click.command("ps", epilog="Example:  hauberk ps --json")
@mesh_option
@json_option
def command(state: State, as_json: bool) -> None:
    """List the replicas of a running mesh.

    A workload that mesh.toml lets serve, and that nobody has announced, is listed as absent.
    """
    rows = asyncio.run(replicas(state))
    if as_json:
        print_json(rows)
    else:
        keys = ("workload", "replica", "spiffe_id", "address", "status", "svid_expires_at")
        click.echo(
            table(_HEADS, [[*(row[key] for key in keys), ", ".join(row["contracts"])] for row in rows])
        )


async def replicas(state: State) -> list[dict[str, Any]]:
    """The control plane and every replica, as `ps --json` prints them."""
    mesh, addresses = state.mesh(), state.running()
    async with control_plane(state) as admin:
        answer = await admin.ListReplicas(admin_pb2.ListReplicasRequest(), timeout=CALL_S)
    control = _row(str(mesh.id_of("control")), "1", addresses.mesh, "serving")
    return [control, *map(_announced, answer.replicas), *_absent(mesh, answer.replicas)]


def _announced(replica: admin_pb2.Replica) -> dict[str, Any]:
    row = _row(replica.spiffe_id, replica.replica, replica.address, STATUS.get(replica.status, "unknown"))
    return row | {
        "svid_expires_at": instant(replica.svid_expires_at),
        "contracts": list(replica.contracts),
        "agent": replica.agent,
    }


def _absent(mesh: MeshFile, announced: Any) -> list[dict[str, Any]]:
    present = {(replica.spiffe_id, replica.replica) for replica in announced}
    return [
        _row(str(mesh.id_of(name)), str(replica), "", "absent")
        for name, workload in mesh.workloads.items()
        for replica in range(1, workload.replicas + 1)
        if workload.serves and (str(mesh.id_of(name)), str(replica)) not in present
    ]


def _row(spiffe_id: str, replica: str, address: str, status: str) -> dict[str, Any]:
    return {
        "workload": SpiffeId.parse(spiffe_id).name,
        "replica": replica,
        "spiffe_id": spiffe_id,
        "address": address,
        "status": status,
        "svid_expires_at": "",
        "contracts": [],
        "agent": "",
    }
