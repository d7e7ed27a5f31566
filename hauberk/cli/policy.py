"""`hauberk policy`: what each method demands, as the replicas alive enforce it."""

import asyncio
from typing import Any

import click
from google.protobuf.json_format import MessageToDict

from hauberk.cli.dial import CALL_S, control_plane
from hauberk.cli.errors import CommandFailed
from hauberk.cli.options import json_option, mesh_option, print_json, table
from hauberk.cli.policy_check import check
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
    "VERSION",
    "REPLICAS",
)


@click.group("policy", epilog="Example:  hauberk policy show shop.orders.v1.Orders")
def command() -> None:
    """Show the policies that are enforced, and look for what is wrong with them."""


command.add_command(check)


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
            _token(method.policy),
            _deadline(method.policy),
            "; ".join(map(_quota, method.policy.quota)) or "none",
            _choice(policy_pb2.Priority.Name(method.policy.priority)) + (", audited" * method.policy.audit),
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


def _token(policy: policy_pb2.Policy) -> str:
    if not policy.HasField("token"):
        return "none"
    token = policy.token
    parts = ["bound" if token.bound else "unbound"]
    parts += [f"one of {', '.join(token.roles)}"] if token.roles else []
    parts += [f"scope {' '.join(token.scopes)}"] if token.scopes else []
    parts += [f"{claim.path} {' or '.join(claim.values) or 'there'}" for claim in token.claims]
    return ", ".join(parts)


def _quota(quota: policy_pb2.Quota) -> str:
    units = f" of {quota.cost}" if quota.cost else ""
    by = quota.header or _choice(policy_pb2.Quota.Key.Name(quota.key))
    return f"{quota.limit}{units} in {_seconds(quota.per)}, {quota.burst} at once, by {by}"


def _choice(name: str) -> str:
    """PRIORITY_HIGH as people write it."""
    return name.partition("_")[2].lower()


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
        "token": _json_token(method.policy),
        "quota": [_json_quota(quota) for quota in method.policy.quota],
        "priority": _choice(policy_pb2.Priority.Name(method.policy.priority)),
        "audit": method.policy.audit,
        "message": {
            "max_bytes": method.policy.message.max_bytes,
            "max_items": method.policy.message.max_items,
        },
        "idempotency": method.idempotency,
        "origin": method.origin,
        "version": method.version,
        "replicas": list(method.replicas),
    }


def _json_token(policy: policy_pb2.Policy) -> dict[str, Any] | None:
    if not policy.HasField("token"):
        return None
    return MessageToDict(
        policy.token, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _json_quota(quota: policy_pb2.Quota) -> dict[str, Any]:
    return {
        "limit": quota.limit,
        "per_s": quota.per.ToTimedelta().total_seconds(),
        "burst": quota.burst,
        "key": _choice(policy_pb2.Quota.Key.Name(quota.key)),
        "header": quota.header,
        "cost": quota.cost,
    }


def _json_seconds(deadline: policy_pb2.Deadline, name: str) -> float | None:
    return float(getattr(deadline, name).ToTimedelta().total_seconds()) if deadline.HasField(name) else None
