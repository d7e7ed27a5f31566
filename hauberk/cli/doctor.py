"""`hauberk doctor`: what is wrong with this mesh, or with one server, and how to mend it."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from hauberk.certs.clock import utc_now
from hauberk.certs.identity import SpiffeId
from hauberk.certs.store import CredentialStore
from hauberk.cli import checkup
from hauberk.cli.checkup import Finding
from hauberk.cli.dial import CALL_S, control_plane
from hauberk.cli.errors import CommandFailed, NoAnswer
from hauberk.cli.health import check_health
from hauberk.cli.identity import credentials_of, store_of
from hauberk.cli.logs import file_name
from hauberk.cli.mesh_file import OPERATOR
from hauberk.cli.options import json_option, mesh_option, print_json
from hauberk.cli.probe import Shown, Verdict, probe
from hauberk.cli.ps import replicas
from hauberk.cli.state import State
from hauberk.protos.hauberk.control.v1 import admin_pb2


@click.command(
    "doctor", epilog="Example:  hauberk doctor; hauberk doctor orders; hauberk doctor 127.0.0.1:50051"
)
@click.argument("target", default="", metavar="[HOST:PORT | WORKLOAD]")
@click.option("--as", "name", metavar="NAME", help="Who knocks at TARGET; else the operator.")
@click.option("--expect", metavar="NAME", help="Which workload should be at HOST:PORT.")
@mesh_option
@json_option
def command(target: str, name: str | None, expect: str | None, state: State, as_json: bool) -> None:
    """Find out what is wrong, and how to mend it.

    Without TARGET: versions, clock, disks, files and their modes, the authority, certificates, ports, the
    control plane. With it: why a connection to that server fails; where HAUBERK_STATE_DIR is set, asked with
    the credentials in it. Exits 1 if anything is wrong.
    """
    findings = list(_servers(state, target, name, expect) if target else _mesh(state))
    if as_json:
        print_json(
            [{"about": f.about, "ok": f.ok, "text": f.text, "remedy": f.remedy or None} for f in findings]
        )
    else:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.about:<12}  {finding.text}")
            if not finding.ok:
                click.echo(f"{'':20}do: {finding.remedy}")
    if not all(finding.ok for finding in findings):
        raise SystemExit(1)


def _mesh(state: State) -> Iterator[Finding]:
    now = utc_now()
    yield from checkup.versions()
    yield from checkup.clock(state, now=now)
    yield from checkup.room(state)
    yield from checkup.files(state)
    try:
        mesh = state.mesh()
    except CommandFailed as error:
        yield Finding(about="mesh file", text=error.message, remedy=error.next_step)
        return
    yield Finding(about="mesh file", text=f"{state.mesh_file}: {len(mesh.workloads)} workloads")
    yield from checkup.authority_of(state, mesh, now=now)
    yield from checkup.certificates(state, mesh, now=now)
    try:
        addresses = state.addresses()
    except CommandFailed as error:
        yield Finding(about="ports", text=error.message, remedy=error.next_step)
        return
    yield from checkup.ports(mesh, addresses)
    yield from _control(state)


def _control(state: State) -> Iterator[Finding]:
    """Whether the control plane answers the operator, and whether all that should serve does."""
    try:
        rows = asyncio.run(replicas(state))
        roots = asyncio.run(_roots(state))
    except NoAnswer as error:
        remedy = f"see what its process does, or end it: kill -KILL {state.running().pid}; up starts it again"
        yield Finding(about="control", text=error.message, remedy=remedy)
        return
    except CommandFailed as error:
        yield Finding(about="control", text=error.message, remedy=error.next_step or "start it: hauberk up")
        return
    yield Finding(about="control", text=f"answers; trusted roots: {roots}")
    for row in rows:
        yield _workload(state, row)


def _workload(state: State, row: dict[str, Any]) -> Finding:
    name, status = row["workload"], row["status"]
    ending = f" (it {row['last_ending']})" if row["restarts"] and status != "serving" else ""
    log = state.logs / file_name(row["process"]) if row["process"] else "its log"
    remedy = ""
    if status == "given up":
        remedy = f"read {log}, mend it, then: hauberk restart {name}"
    elif status not in ("serving", "running"):
        remedy = f"read {log}; then: hauberk doctor {name}"
    return Finding(about="workloads", text=f"{name} #{row['replica']} is {status}{ending}", remedy=remedy)


async def _roots(state: State) -> int:
    async with control_plane(state) as admin:
        answer = await admin.ListRoots(admin_pb2.ListRootsRequest(), timeout=CALL_S)
    return len(answer.roots)


def _servers(state: State, target: str, name: str | None, expect: str | None) -> Iterator[Finding]:
    """What is wrong with each server that `target` names; of those that let us in, whether they serve."""
    shown = _shown(state, name)
    domain = shown.credentials.svid.spiffe_id.trust_domain
    if ":" in target:
        servers = [(target, SpiffeId.of(domain, expect) if expect else None)]
    else:
        servers = [(address, SpiffeId.of(domain, target)) for address in _addresses(state, target)]
    for address, expected in servers:
        verdict = probe(address, shown, expected=expected, now=utc_now())
        yield _finding(verdict, shown)
        if verdict.ok:
            yield _health(verdict, shown)


def _shown(state: State, name: str | None) -> Shown:
    """What we show for ourselves: on disk, even if it has expired (that is a finding), else enrolled now."""
    own = os.environ.get("HAUBERK_STATE_DIR")
    store = CredentialStore(Path(own)) if own and name is None else store_of(state, name or OPERATOR)
    credentials = store.load() or asyncio.run(credentials_of(state, name or OPERATOR))
    return Shown(credentials=credentials, chain_path=store.chain_path, key_path=store.key_path)


def _addresses(state: State, workload: str) -> list[str]:
    rows = asyncio.run(replicas(state))
    found = [row["address"] for row in rows if row["workload"] == workload and row["address"]]
    if not found:
        raise CommandFailed(f"nobody has announced {workload}", "who has: hauberk ps; or give HOST:PORT")
    return found


def _finding(verdict: Verdict, shown: Shown) -> Finding:
    if verdict.ok:
        ours = shown.credentials.svid.spiffe_id
        return Finding(about=verdict.target, text=f"{verdict.server} answers {ours} over {verdict.tls}")
    return Finding(about=verdict.target, text=verdict.cause, remedy=verdict.remedy)


def _health(verdict: Verdict, shown: Shown) -> Finding:
    """The server's own word, which also tells what its guard thinks of us: it may refuse whom TLS lets in."""
    server = SpiffeId.parse(verdict.server)
    said = asyncio.run(check_health(verdict.target, server, shown.credentials))["health"]
    remedy = "" if said == "SERVING" else f"read the log of {server.name}; who may call: hauberk policy show"
    return Finding(about=verdict.target, text=f"health: {said}", remedy=remedy)
