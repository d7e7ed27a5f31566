"""`hauberk policy apply`: the overrides of mesh.toml in force in the running mesh, and no others."""

import asyncio

import click

from hauberk.cli.dial import CALL_S, control_plane
from hauberk.cli.mesh_file import MeshFile
from hauberk.cli.options import json_option, mesh_option, print_json
from hauberk.cli.overrides import overrides_of
from hauberk.cli.state import State
from hauberk.protos.hauberk.control.v1 import admin_pb2


@click.command("apply", epilog="Example:  hauberk policy apply")
@mesh_option
@json_option
def apply(state: State, as_json: bool) -> None:
    """Put the [policy] tables of mesh.toml in force, in the place of all overrides before them.

    No process is restarted. Every one that serves such a method is asked first: where one cannot enforce its
    override, nothing changes, and it is said why.
    """
    answer = asyncio.run(_apply(state, request_of(state.mesh(), state.mesh_file.name)))
    if as_json:
        print_json(
            {
                "version": answer.version,
                "changed": list(answer.changed),
                "enforced_by": list(answer.enforced_by),
                "late": list(answer.late),
            }
        )
        return
    click.echo(told(answer) or "nothing has changed")
    if answer.late:
        click.echo("who enforces what: hauberk policy show", err=True)


async def _apply(state: State, request: admin_pb2.ApplyOverridesRequest) -> admin_pb2.ApplyOverridesResponse:
    async with control_plane(state) as admin:
        answer: admin_pb2.ApplyOverridesResponse = await admin.ApplyOverrides(request, timeout=CALL_S)
    return answer


def request_of(mesh: MeshFile, file: str = "mesh.toml") -> admin_pb2.ApplyOverridesRequest:
    """What the mesh file overrides. Raises MeshFileError."""
    overrides = overrides_of(mesh.policy, mesh.services, file)
    return admin_pb2.ApplyOverridesRequest(overrides=overrides.declared())


def told(answer: admin_pb2.ApplyOverridesResponse) -> str:
    """What has changed, for people; empty if nothing has."""
    if not answer.changed:
        return ""
    enforced = ", ".join(name.rpartition("/")[2] for name in answer.enforced_by)
    late = ", ".join(name.rpartition("/")[2] for name in answer.late)
    parts = [f"overridden anew: {', '.join(method[1:] for method in answer.changed)}"]
    parts += [f"in force in {enforced}"] if enforced else ["nobody serves it now"] if not late else []
    parts += [f"not yet in {late}"] if late else []
    return "; ".join(parts)
