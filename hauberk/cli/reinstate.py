"""`hauberk reinstate`: takes a revocation back."""

import asyncio

import click

from hauberk.cli.dial import CALL_S, control_plane
from hauberk.cli.options import json_option, mesh_option, print_json
from hauberk.cli.state import State
from hauberk.protos.hauberk.control.v1 import admin_pb2


@click.command("reinstate", epilog="Example:  hauberk reinstate payments")
@click.argument("name")
@mesh_option
@json_option
def command(name: str, state: State, as_json: bool) -> None:
    """Refuse the workload NAME no longer: it may be invited again.

    Refused while certificates from before the revocation are valid, and it says until when: they would be let
    in again, wherever they are. Join tokens it had are void.
    """
    spiffe_id = asyncio.run(_reinstate(state, name))
    if as_json:
        print_json({"reinstated": spiffe_id})
    else:
        click.echo(
            f"reinstated {spiffe_id}; what `hauberk up` runs of it: hauberk restart {name}; "
            f"what others start: hauberk invite {name} --serves SERVICE"
        )


async def _reinstate(state: State, name: str) -> str:
    async with control_plane(state) as admin:
        answer = await admin.Reinstate(admin_pb2.ReinstateRequest(name=name), timeout=CALL_S)
    return str(answer.spiffe_id)
