"""`hauberk policy`: what each method demands, as the replicas alive enforce it."""

import asyncio
from typing import Any

import click

from hauberk.cli.dial import CALL_S, control_plane
from hauberk.cli.errors import CommandFailed
from hauberk.cli.options import json_option, mesh_option, print_json, table
from hauberk.cli.state import State
from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.protos.hauberk.policy.v1 import policy_pb2

_HEADS = ("METHOD", "CALLERS", "DEADLINE", "MESSAGE", "IDEMPOTENCY", "FROM", "VERSION", "REPLICAS")


@click.group("policy", epilog="Example:  hauberk policy show shop.orders.v1.Orders")
def command() -> None:
    """Show the policies that are enforced."""


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
            "anyone, without certificate"
            if method.policy.anonymous
            else ", ".join(method.policy.callers) or "nobody",
            _deadline(method.policy),
            _message(method.policy.message),
            method.idempotency,
            method.origin,
            method.version[:8],
            ", ".join(replica.rpartition("/")[2] for replica in method.replicas),
        )
        for method in methods
    ]
    click.echo(table(_HEADS, rows))


async def _policies(state: State, wanted: str) -> list[admin_pb2.MethodPolicy]:
    async with control_plane(state) as admin:
        answer = await admin.ListPolicies(admin_pb2.ListPoliciesRequest(filter=wanted), timeout=CALL_S)
    return list(answer.methods)


def _deadline(policy: policy_pb2.Policy) -> str:
    if not policy.HasField("deadline"):
        return "any"
    deadline = policy.deadline
    parts = ["required"] if deadline.required else []
    parts += [f"default {_seconds(deadline.default)}"] if deadline.HasField("default") else []
    parts += [f"max {_seconds(deadline.max)}"] if deadline.HasField("max") else []
    return ", ".join(parts)


def _message(bounds: policy_pb2.MessageBounds) -> str:
    size, unit = bounds.max_bytes, "B"
    for larger in ("KiB", "MiB"):
        if size % 1024 == 0:
            size, unit = size // 1024, larger
    return f"{size} {unit}, {bounds.max_items} items"


def _seconds(duration: Any) -> str:
    return f"{duration.ToTimedelta().total_seconds():g} s"


def _json(method: admin_pb2.MethodPolicy) -> dict[str, Any]:
    deadline = method.policy.deadline
    return {
        "method": method.method,
        "callers": list(method.policy.callers),
        "anonymous": method.policy.anonymous,
        "deadline": {
            "required": deadline.required,
            "default_s": _json_seconds(deadline, "default"),
            "max_s": _json_seconds(deadline, "max"),
        },
        "message": {
            "max_bytes": method.policy.message.max_bytes,
            "max_items": method.policy.message.max_items,
        },
        "idempotency": method.idempotency,
        "origin": method.origin,
        "version": method.version,
        "replicas": list(method.replicas),
    }


def _json_seconds(deadline: policy_pb2.Deadline, name: str) -> float | None:
    return float(getattr(deadline, name).ToTimedelta().total_seconds()) if deadline.HasField(name) else None
