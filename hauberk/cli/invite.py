"""`hauberk invite`: a join token, with which one process can get its first certificate, once."""

import asyncio
from datetime import timedelta

import click

from hauberk.cli import CIPHER_VARIABLE, TLS_1_3_ONLY
from hauberk.cli.dial import control_plane, invited
from hauberk.cli.errors import CommandFailed
from hauberk.cli.mesh_file import seconds
from hauberk.cli.options import instant, json_option, mesh_option, print_json
from hauberk.cli.state import State
from hauberk.protos.hauberk.control.v1 import admin_pb2


@click.command(
    "invite", epilog="Example:  hauberk invite payments --serves shop.payments.v1.Payments > token"
)
@click.argument("name")
@click.option(
    "--serves",
    multiple=True,
    metavar="SERVICE",
    help="A contract it may serve, by its full name; may be given again. Replaces all that it might serve "
    "before; without --serves that stays as it is.",
)
@click.option("--serves-nothing", "nothing", is_flag=True, help="Take from it every contract it may serve.")
@click.option("--ttl", default="10m", show_default=True, help="How long the token may wait to be used.")
@mesh_option
@json_option
def command(name: str, serves: tuple[str, ...], nothing: bool, ttl: str, state: State, as_json: bool) -> None:
    """Print a join token for the workload NAME ("orders", "prod/orders").

    It works once. Hand it over by HAUBERK_JOIN_TOKEN_FILE or HAUBERK_JOIN_TOKEN_FD; the rest of what a
    process needs to join is printed to stderr.
    """
    life = seconds(ttl)
    if life is None:
        raise CommandFailed(f"--ttl is no duration: {ttl!r}", "write a number and s, m, h or d: --ttl 10m")
    if nothing and serves:
        raise CommandFailed("--serves-nothing and --serves exclude each other", "leave one of them out")
    keep = not (serves or nothing)
    request = admin_pb2.InviteRequest(name=name, serves=serves, keep_bindings=keep)
    request.ttl.FromTimedelta(timedelta(seconds=life))
    invitation = asyncio.run(_ask(state, request))
    if as_json:
        print_json(
            {
                "join_token": invitation.join_token,
                "spiffe_id": invitation.spiffe_id,
                "expires_at": instant(invitation.expires_at),
            }
        )
        return
    click.echo(invitation.join_token)
    may = "what it might before (if it is new: nothing)" if keep else ", ".join(serves) or "nothing"
    click.echo(
        f"for {invitation.spiffe_id}, once, until {instant(invitation.expires_at)}; it may serve: {may}\n"
        f"its process needs: HAUBERK_NAME={name} HAUBERK_STATE_DIR=<a folder of its own> "
        f"HAUBERK_JOIN_TOKEN_FILE=<the token's file> HAUBERK_ENROLMENT={state.running().enrolment} "
        f"HAUBERK_ROOTS={state.roots} {CIPHER_VARIABLE}={TLS_1_3_ONLY}",
        err=True,
    )


async def _ask(state: State, request: admin_pb2.InviteRequest) -> admin_pb2.InviteResponse:
    async with control_plane(state) as admin:
        return await invited(admin, request)
