"""`hauberk policy check`: what is wrong with the contracts of a mesh, before or while it runs."""

import asyncio
from dataclasses import asdict
from pathlib import Path

import click

import hauberk
from hauberk.certs.identity import SpiffeId
from hauberk.cli.contracts import Contracts, Method, Place
from hauberk.cli.dial import CALL_S, control_plane
from hauberk.cli.lint import Finding, Known, findings, wrong
from hauberk.cli.mesh_file import OPERATOR, MeshFile
from hauberk.cli.options import F, json_option, mesh_option, print_json
from hauberk.cli.state import State
from hauberk.cli.written import Written
from hauberk.interceptors.overrides import Override
from hauberk.interceptors.policy import Idempotency, Policy
from hauberk.protos.hauberk.control.v1 import admin_pb2


def protos_option(function: F) -> F:
    """--protos FOLDER, given to the command as `protos`."""
    return click.option(
        "--protos",
        multiple=True,
        type=Path,
        metavar="FOLDER",
        help="Where the contracts are, as protoc imports them; protos beside mesh.toml if nothing is said.",
    )(function)


@click.command("check", epilog="Example:  hauberk policy check --protos contracts")
@protos_option
@click.option("--running", is_flag=True, help="Check what the replicas alive enforce, and who is connected.")
@mesh_option
@json_option
def check(protos: tuple[Path, ...], running: bool, state: State, as_json: bool) -> None:
    """Look for what is wrong with the contracts, as mesh.toml overrides them.

    Methods that nobody can call, callers that are nobody, methods that write for anybody, deadlines longer
    than a caller's own, tokens that no issuer is believed for. Ends with 1 if there is any. What only
    deserves a look is marked "note", and does not fail.
    """
    mesh = state.mesh()
    if running:
        contracts, names = asyncio.run(_announced(state))
        found: list[Finding] = []
    else:
        written = Written(state, mesh, on_disk(state, mesh, protos))
        contracts, names = written.services, frozenset[str]()
        found = [_astray(override, place) for override, place in written.astray()]
    found += findings(contracts, _known(mesh, names, state.mesh_file.name))
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        click.echo("\n".join(map(_spelled, found)) or "nothing is wrong with the contracts")
    if wrong(found):
        raise SystemExit(1)


def _astray(override: Override, place: Place) -> Finding:
    return Finding(
        kind="unknown-method",
        method=override.method,
        what=f"it is overridden, and {override.service} has no such method",
        where=str(place),
        next_step="correct the name, or remove it: its server would not start",
    )


def on_disk(state: State, mesh: MeshFile, protos: tuple[Path, ...]) -> Contracts:
    """The contracts that the mesh's workloads serve; those of the sample shop come with hauberk itself."""
    beside = state.mesh_file.parent / "protos"
    ours = Path(hauberk.__file__).parent / "protos"
    folders = list(protos) or ([beside] if beside.is_dir() else [])
    if all(folder.resolve() != ours.resolve() for folder in folders):
        folders.append(ours)
    return Contracts.read(folders, mesh.services)


def _known(mesh: MeshFile, connected: frozenset[str], file: str) -> Known:
    names = {*mesh.workloads, OPERATOR, *([mesh.once.workload] if mesh.once else ())} | connected
    return Known(
        trust_domain=mesh.trust_domain,
        serves=mesh.services,
        names=frozenset(names),
        issuers=bool(mesh.tokens),
        file=file,
    )


async def _announced(state: State) -> tuple[dict[str, dict[str, Method]], frozenset[str]]:
    """What the replicas alive enforce, and everybody who is connected."""
    async with control_plane(state) as admin:
        listed = await admin.ListPolicies(admin_pb2.ListPoliciesRequest(), timeout=CALL_S)
        clients = await admin.ListClients(admin_pb2.ListClientsRequest(), timeout=CALL_S)
        replicas = await admin.ListReplicas(admin_pb2.ListReplicasRequest(), timeout=CALL_S)
    services: dict[str, dict[str, Method]] = {}
    for each in listed.methods:
        service = each.method.removeprefix("/").partition("/")[0]
        by = ", ".join(name.rpartition("/")[2] for name in each.replicas) or "nobody alive"
        place = Place(f"{each.origin} of {each.method}, as {by} announced it")
        policy = Policy.of(
            each.policy, method=each.method, idempotency=Idempotency(each.idempotency), origin=each.origin
        )
        services.setdefault(service, {})[each.method] = Method(
            path=each.method, policy=policy, complaint="", declared=place, option=place
        )
    known = [*(client.spiffe_id for client in clients.clients), *(one.spiffe_id for one in replicas.replicas)]
    return services, frozenset(SpiffeId.parse(name).name for name in known)


def _spelled(finding: Finding) -> str:
    mark = "note: " if finding.note else ""
    lines = (
        f"{finding.method}: {mark}{finding.what}",
        f"  at: {finding.where}",
        f"  next: {finding.next_step}",
    )
    return "\n".join(lines)
