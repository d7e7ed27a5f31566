"""`hauberk policy`: what each method demands, as the replicas alive enforce it."""

import asyncio
from typing import Any

import click

from hauberk.cli.dial import CALL_S, control_plane
from hauberk.cli.errors import CommandFailed
from hauberk.cli.options import json_option, mesh_option, print_json, table
from hauberk.cli.policy_apply import apply
from hauberk.cli.policy_check import check
from hauberk.cli.policy_diff import diff
from hauberk.cli.policy_explain import explain_command
from hauberk.cli.policy_words import (
    as_json,
    choice,
    spelled_callers,
    spelled_deadline,
    spelled_message,
    spelled_quotas,
    spelled_token,
)
from hauberk.cli.state import State
from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.protos.hauberk.policy.v1 import policy_pb2

_HEADS = (
    "METHOD",
    "CALLERS",
    "TOKEN",
    "DEADLINE",
    "QUOTA",
    "PRIORITY",
    "MESSAGE",
    "IDEMPOTENCY",
    "FROM",
    "OVERRIDDEN",
    "VERSION",
    "REPLICAS",
)


@click.group("policy", epilog="Example:  hauberk policy show shop.orders.v1.Orders")
def command() -> None:
    """Show the policies that are enforced, override them, and look for what is wrong with them."""


for each in (apply, check, diff, explain_command):
    command.add_command(each)


@command.command("show", epilog="Example:  hauberk policy show /shop.orders.v1.Orders/PlaceOrder --json")
@click.argument("which", default="", metavar="[SERVICE | /SERVICE/METHOD]")
@mesh_option
@json_option
def show(which: str, state: State, as_json: bool) -> None:
    """Show each method's policy, where it is declared, and which replicas enforce which version of it."""
    wanted = which if which.startswith("/") or "/" not in which else f"/{which}"
    methods = asyncio.run(_policies(state, wanted))
    if which and not methods:
        raise CommandFailed(f"nobody has announced {which}", "what there is: hauberk policy show")
    if as_json:
        print_json([_json(method) for method in methods])
        return
    rows = [
        (
            method.method.lstrip("/"),
            spelled_callers(method.policy),
            spelled_token(method.policy),
            spelled_deadline(method.policy),
            spelled_quotas(method.policy),
            choice(policy_pb2.Priority.Name(method.policy.priority)) + (", audited" * method.policy.audit),
            spelled_message(method.policy.message),
            method.idempotency,
            method.origin,
            _overridden(method),
            method.version[:8],
            ", ".join(replica.rpartition("/")[2] for replica in method.replicas),
        )
        for method in methods
    ]
    click.echo(table(_HEADS, rows))


def _overridden(method: admin_pb2.MethodPolicy) -> str:
    """What an operator says, and what of it is only tried."""
    in_force = [name for name in method.overridden if name not in method.tried]
    return ", ".join([*in_force, *(f"{name} (shadow)" for name in method.tried)])


async def _policies(state: State, wanted: str) -> list[admin_pb2.MethodPolicy]:
    async with control_plane(state) as admin:
        answer = await admin.ListPolicies(admin_pb2.ListPoliciesRequest(filter=wanted), timeout=CALL_S)
    return list(answer.methods)


def _json(method: admin_pb2.MethodPolicy) -> dict[str, Any]:
    return {
        "method": method.method,
        **as_json(method.policy),
        "idempotency": method.idempotency,
        "origin": method.origin,
        "overridden": [name for name in method.overridden if name not in method.tried],
        "shadow": list(method.tried),
        "would_be": as_json(method.shadow) if method.tried else None,
        "version": method.version,
        "replicas": list(method.replicas),
    }
