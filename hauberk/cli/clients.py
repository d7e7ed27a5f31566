"""`hauberk clients`: each connected xDS client, what it was sent, accepted and rejected, and why."""

import asyncio
from typing import Any

import click

from hauberk.certs.identity import SpiffeId
from hauberk.cli.dial import CALL_S, control_plane
from hauberk.cli.options import instant, json_option, mesh_option, print_json, table
from hauberk.cli.state import State
from hauberk.protos.hauberk.control.v1 import admin_pb2

_HEADS = ("CLIENT", "NODE", "SPEAKS", "SINCE", "TYPE", "RESOURCES", "SENT", "ACKED")


@click.command("clients", epilog="Example:  hauberk clients --json")
@mesh_option
@json_option
def command(state: State, as_json: bool) -> None:
    """List the connected xDS clients.

    For each: who it is by its certificate, what it calls itself, and per resource type the version it was
    sent, the one it accepted, and what it rejected with its own words.
    """
    clients = asyncio.run(_clients(state))
    if as_json:
        print_json([_json(client) for client in clients])
        return
    if not clients:
        click.echo("no xDS client is connected: a workload connects when it first calls another", err=True)
    click.echo(table(_HEADS, [row for client in clients for row in _rows(client)]))
    for client in clients:
        for kind in client.types:
            if kind.nack_detail:
                click.echo(
                    f"\n{client.spiffe_id} rejected {kind.type} {kind.version_nacked}:\n  {kind.nack_detail}"
                )


async def _clients(state: State) -> list[admin_pb2.XdsClient]:
    async with control_plane(state) as admin:
        answer = await admin.ListClients(admin_pb2.ListClientsRequest(), timeout=CALL_S)
    return list(answer.clients)


def _rows(client: admin_pb2.XdsClient) -> list[list[str]]:
    """A row for each resource type; the client itself is named on the first only."""
    name = SpiffeId.parse(client.spiffe_id).name
    speaks = f"{client.user_agent} {client.user_agent_version}".strip()
    heads = [name, client.node_id, speaks, instant(client.connected_at)]
    kinds = [
        [
            kind.type,
            str(len(kind.names)),
            kind.version_sent[:12],
            kind.version_acked[:12] + (" REJECTED" if kind.nack_detail else ""),
        ]
        for kind in client.types
    ] or [["", "", "", ""]]
    return [
        [*(heads if first else [" "] * 4), *kind]
        for first, kind in ((kind is kinds[0], kind) for kind in kinds)
    ]


def _json(client: admin_pb2.XdsClient) -> dict[str, Any]:
    return {
        "spiffe_id": client.spiffe_id,
        "node_id": client.node_id,
        "user_agent": client.user_agent,
        "user_agent_version": client.user_agent_version,
        "connected_at": instant(client.connected_at),
        "types": [
            {
                "type": kind.type,
                "names": list(kind.names),
                "version_sent": kind.version_sent,
                "version_acked": kind.version_acked,
                "version_nacked": kind.version_nacked,
                "nack_detail": kind.nack_detail,
                "nacked_at": instant(kind.nacked_at),
            }
            for kind in client.types
        ],
    }
