"""`hauberk revoke`: a name that gets no renewal, no route and no call from now on."""

import asyncio

import click

from hauberk.cli.dial import CALL_S, control_plane
from hauberk.cli.options import json_option, mesh_option, print_json
from hauberk.cli.state import State
from hauberk.protos.hauberk.control.v1 import admin_pb2


@click.command("revoke", epilog="Example:  hauberk revoke payments --reason 'key was copied'")
@click.argument("name")
@click.option("--reason", default="", help="Kept in the control plane's log.")
@mesh_option
@json_option
def command(name: str, reason: str, state: State, as_json: bool) -> None:
    """Refuse the workload NAME from now on, everywhere: its renewals, its calls, and calls to it.

    It can be taken back once its certificates have ended: hauberk reinstate NAME.
    """
    spiffe_id, was_there = asyncio.run(_revoke(state, name, reason))
    if as_json:
        print_json({"revoked": spiffe_id})
    else:
        click.echo(f"revoked {spiffe_id}")
    if not was_there and name not in state.mesh().workloads:
        click.echo(
            "nobody of that name is announced or in mesh.toml; is it the one you meant? hauberk ps", err=True
        )


async def _revoke(state: State, name: str, reason: str) -> tuple[str, bool]:
    """Whom it refused, and whether that name was announced until then."""
    async with control_plane(state) as admin:
        listed = await admin.ListReplicas(admin_pb2.ListReplicasRequest(), timeout=CALL_S)
        answer = await admin.Revoke(admin_pb2.RevokeRequest(name=name, reason=reason), timeout=CALL_S)
    return answer.spiffe_id, any(replica.spiffe_id == answer.spiffe_id for replica in listed.replicas)
