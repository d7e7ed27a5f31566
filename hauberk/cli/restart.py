"""`hauberk restart`: asks the running `hauberk up` to restart workloads, one replica after another."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from hauberk.cli.errors import CommandFailed
from hauberk.cli.options import json_option, mesh_option, print_json
from hauberk.cli.state import State
from hauberk.cli.up_socket import Request, asking

STEP_S = 90.0
"""How long one step may take before it is said that `up` does not answer; `up` bounds each to less."""
_WORDS = {
    "alone": "is the only replica, and no spare stands in: its callers will notice",
    "spare starts": "starts, to stand in meanwhile",
    "spare serves": "serves after {seconds:.1f} s",
    "spare ended": "ended again",
    "ending": "is asked to end, pid {pid}",
    "ended": "ended after {seconds:.1f} s, starts again",
    "absent": "does not run, starts",
    "serves": "serves after {seconds:.1f} s, pid {pid}",
}


@click.command("restart", epilog="Example:  hauberk restart orders payments; hauberk restart --all")
@click.argument("workloads", nargs=-1, metavar="[WORKLOAD]...")
@click.option("--all", "everything", is_flag=True, help="Every workload, then the control plane.")
@click.option(
    "--no-spare",
    is_flag=True,
    help="Start no second process of a workload that has one replica: its callers notice the restart.",
)
@mesh_option
@json_option
def command(
    workloads: tuple[str, ...], everything: bool, no_spare: bool, state: State, as_json: bool
) -> None:
    """Restart workloads of a running mesh, one replica after another, without a failed call.

    Each replica drains, ends, is started again with a fresh join token, and serves before it is the next
    one's turn; "control" is the control plane. Where a workload has one replica, a spare one serves
    meanwhile. What `hauberk up` gave up is started again too. Stops with an error if a replica does not come
    back; Ctrl-C stops after the current one.
    """
    if bool(workloads) == everything:
        raise CommandFailed("name the workloads to restart, or give --all", "which there are: hauberk ps")
    steps: list[dict[str, Any]] = []
    request = Request(ask="restart", workloads=workloads, spare=not no_spare)
    with asking(state, request, within=STEP_S) as (connection, lines), _early_end(connection):
        for line in lines:
            if "replica" not in line:
                break
            steps.append(line)
            if not as_json:
                click.echo(f"{line['replica']:<14}  {_WORDS[line['event']].format(**line)}")
        else:
            line = {
                "event": "failed",
                "message": "`hauberk up` ended before the restart did",
                "next_step": "start it: hauberk up (in another terminal)",
            }
    if as_json:
        print_json({"steps": steps, "failure": line.get("message")})
    if line["event"] == "failed":
        raise CommandFailed(line["message"], line["next_step"])
    if not as_json:
        restarted = sum(step["event"] == "serves" for step in steps)
        click.echo(f"restarted {restarted} {'process' if restarted == 1 else 'processes'}")


@contextmanager
def _early_end(connection: socket.socket) -> Iterator[None]:
    """The first Ctrl-C in the block asks for an early end, the second takes effect as usual."""

    def told(number: int, _: object) -> None:
        signal.signal(number, before)
        connection.shutdown(socket.SHUT_WR)
        click.echo("stopping after this replica", err=True)

    before = signal.signal(signal.SIGINT, told)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
