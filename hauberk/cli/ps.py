"""`hauberk ps`: every replica announced, every workload of mesh.toml that should be and is not, and what
`hauberk up` makes of their processes.
"""

import asyncio
from typing import Any

import click

from hauberk.certs.identity import SpiffeId
from hauberk.cli.dial import CALL_S, control_plane
from hauberk.cli.errors import CommandFailed
from hauberk.cli.local_mesh import STATUS
from hauberk.cli.mesh_file import MeshFile
from hauberk.cli.options import instant, json_option, mesh_option, print_json, table
from hauberk.cli.state import State
from hauberk.cli.up_socket import Request, ask
from hauberk.protos.hauberk.control.v1 import admin_pb2

UP_S = 3.0
"""How long `hauberk up` may take to say what its processes do."""
_HEADS = ("WORKLOAD", "REPLICA", "IDENTITY", "ADDRESS", "STATUS", "RESTARTS", "SVID UNTIL", "CONTRACTS")


@click.command("ps", epilog="Example:  hauberk ps --json")
@mesh_option
@json_option
def command(state: State, as_json: bool) -> None:
    """List the replicas of a running mesh.

    A workload that mesh.toml lets serve, and that nobody has announced, is listed as absent; where `hauberk
    up` runs it, as what that makes of it: starting, restarting, given up. RESTARTS is how often a process
    ended without being asked to.
    """
    rows = asyncio.run(replicas(state))
    if as_json:
        print_json(rows)
    else:
        keys = ("workload", "replica", "spiffe_id", "address", "status", "restarts", "svid_expires_at")
        cells = [[*(str(row[key] or "") for key in keys), ", ".join(row["contracts"])] for row in rows]
        click.echo(table(_HEADS, cells))


async def replicas(state: State) -> list[dict[str, Any]]:
    """The control plane and every replica, as `ps --json` prints them."""
    mesh, children = state.mesh(), await asyncio.to_thread(_children, state)
    rows = []
    if not children or state.addresses():
        addresses = state.running()
        async with control_plane(state) as admin:
            answer = await admin.ListReplicas(admin_pb2.ListReplicasRequest(), timeout=CALL_S)
        control = _row(str(mesh.id_of("control")), "1", addresses.mesh, "serving")
        rows = [control, *map(_announced, answer.replicas), *_absent(mesh, answer.replicas)]
    return _with_children(mesh, rows, children)


def _children(state: State) -> list[dict[str, Any]]:
    """What a running `up` says of its processes; nothing where none runs, or it does not answer."""
    try:
        [answer] = ask(state, Request(ask="children"), within=UP_S)
        return list(answer["children"])
    except (CommandFailed, ValueError, KeyError):
        return []


def _with_children(
    mesh: MeshFile, rows: list[dict[str, Any]], children: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows, with what is said of the process of each; a row more for each that is in none."""
    by_process = {(row["workload"], row["replica"]): row for row in rows}
    for child in children:
        process = child["workload"], child["replica"]
        row = by_process.get(process)
        if row is None:
            row = _row(str(mesh.id_of(process[0])), process[1], "", child["condition"])
            rows.append(row)
        elif child["condition"] != "running":
            row["status"] = child["condition"]
        row |= {key: child[key] for key in ("process", "pid", "restarts", "last_ending")}
    return rows


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
        "process": "",
        "pid": None,
        "restarts": 0,
        "last_ending": "",
    }
