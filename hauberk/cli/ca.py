"""`hauberk ca`: makes the mesh's authority, shows its roots, rolls them step by step or all in one."""

import asyncio
import json
from typing import Any

import click

from hauberk.certs.authority import Authority
from hauberk.certs.clock import utc_now
from hauberk.cli import authority
from hauberk.cli.dial import CALL_S, control_plane
from hauberk.cli.options import json_option, mesh_option, print_json, table
from hauberk.cli.root_roll import lines, progress, roll, stood
from hauberk.cli.state import State
from hauberk.protos.hauberk.control.v1 import admin_pb2

_NEXT = {
    "prepare": "when it cuts off nobody (hauberk ca show): hauberk ca activate; or the rest: hauberk ca roll",
    "activate": "when it cuts off nobody (hauberk ca show): hauberk ca retire; or the rest: hauberk ca roll",
    "retire": "",
}


@click.group("ca", epilog="Example:  hauberk ca show")
def command() -> None:
    """Make, show and roll the mesh's roots.

    A roll has three steps, and every process must have seen one before the next: prepare makes a new root
    that is trusted from then on, activate lets it sign, retire ends the trust in the old one. `roll` takes
    all three and waits in between; `show` tells whom the next one would cut off.
    """


@command.command("init", epilog="Example:  hauberk ca init --mesh mesh.toml")
@mesh_option
@json_option
def init(state: State, as_json: bool) -> None:
    """Make the authority that mesh.toml asks for; `hauberk up` does so by itself."""
    _show(state, authority.create(state, state.mesh()), None, as_json)


@command.command("show", epilog="Example:  hauberk ca show --json")
@mesh_option
@json_option
def show(state: State, as_json: bool) -> None:
    """Show the roots, where each stands, and whom the next step of a roll would cut off.

    Roots are read from the folder; the rest is known where the mesh runs.
    """
    opened = authority.load(state, state.mesh())
    _show(state, opened, asyncio.run(stood(state)) if state.addresses() else None, as_json)


@command.command("prepare", epilog="Example:  hauberk ca prepare")
@mesh_option
@json_option
def prepare(state: State, as_json: bool) -> None:
    """Make the next root, trusted from now on; the old one still signs."""
    _roll(state, "prepare", as_json)


@command.command("activate", epilog="Example:  hauberk ca activate")
@mesh_option
@json_option
def activate(state: State, as_json: bool) -> None:
    """Let the prepared root sign; the old one is trusted still."""
    _roll(state, "activate", as_json)


@command.command("retire", epilog="Example:  hauberk ca retire")
@mesh_option
@json_option
def retire(state: State, as_json: bool) -> None:
    """End the trust in the old root: what it signed is refused from now on."""
    _roll(state, "retire", as_json)


@command.command("roll", epilog="Example:  hauberk ca roll")
@mesh_option
@json_option
def roll_all(state: State, as_json: bool) -> None:
    """Take every step of a roll, each as soon as it cuts off nobody; goes on where a roll stands.

    It takes about as long as a certificate lives. Interrupt it at any time, and start it again. With --json
    each line is an object.
    """

    def tell(change: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps(change))
        else:
            click.echo("\n".join(lines(change) if "next" in change else [f"{change['step']}: done"]))

    state.running()
    asyncio.run(roll(state, tell))
    if not as_json:
        click.echo("")
        _show(state, authority.load(state, state.mesh()), None, as_json)


def _roll(state: State, step: str, as_json: bool) -> None:
    """One step: by the control plane where it runs, for only it tells the others; else in the folder."""
    stands = None
    if state.addresses():
        stands = asyncio.run(_ask(state, step)).roll
        opened = authority.load(state, state.mesh())
    else:
        opened = authority.load(state, state.mesh())
        steps = {"prepare": opened.prepare, "activate": opened.activate, "retire": opened.retire}
        steps[step](utc_now())
    _show(state, opened, stands, as_json)
    if _NEXT[step] and not as_json:
        click.echo(f"\nnext: {_NEXT[step]}")


async def _ask(state: State, step: str) -> Any:
    request = admin_pb2.RollRootRequest(step=f"STEP_{step.upper()}")
    async with control_plane(state) as admin:
        return await admin.RollRoot(request, timeout=CALL_S)


def _show(state: State, opened: Authority, stands: admin_pb2.RootRoll | None, as_json: bool) -> None:
    described = None if stands is None else progress(stands)
    roots = [
        {
            "state": str(root.state),
            "fingerprint": root.fingerprint,
            "not_before": f"{root.not_before:%Y-%m-%dT%H:%M:%SZ}",
            "not_after": f"{root.not_after:%Y-%m-%dT%H:%M:%SZ}",
            "expired": root.expired,
        }
        for root in opened.roots(utc_now())
    ]
    if as_json:
        shown = {"trust_domain": opened.trust_domain, "folder": str(state.ca), "roots": roots}
        print_json(shown | {"roll": described})
        return
    click.echo(f"trust domain {opened.trust_domain}\nroots to pin {state.roots}\n")
    rows = [[str(root[key]) for key in ("state", "fingerprint", "not_before", "not_after")] for root in roots]
    click.echo(table(("ROOT", "SHA-256", "FROM", "UNTIL"), rows))
    if described is not None:
        click.echo("".join(f"\n{line}" for line in lines(described)), nl=bool(lines(described)))
