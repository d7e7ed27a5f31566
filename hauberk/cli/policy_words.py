"""A policy in words, for people and for scripts."""

from typing import Any

from google.protobuf.json_format import MessageToDict

from hauberk.interceptors.policy import Policy
from hauberk.protos.hauberk.policy.v1 import policy_pb2


def as_json(policy: policy_pb2.Policy) -> dict[str, Any]:
    """Everything that it demands, in plain values."""
    deadline = policy.deadline
    return {
        "callers": list(policy.callers),
        "anonymous": policy.anonymous,
        "deadline": {
            "required": deadline.required,
            "default_s": _json_seconds(deadline, "default"),
            "max_s": _json_seconds(deadline, "max"),
        },
        "token": _json_token(policy),
        "quota": [_json_quota(quota) for quota in policy.quota],
        "priority": choice(policy_pb2.Priority.Name(policy.priority)),
        "audit": policy.audit,
        "message": {"max_bytes": policy.message.max_bytes, "max_items": policy.message.max_items},
    }


def spelled_demand(policy: Policy, name: str) -> str:
    """One field of a policy (as policy.proto names it), its idempotency, or what of it is only tried."""
    said = policy.declared()
    match name:
        case "callers" | "anonymous":
            return spelled_callers(said)
        case "deadline":
            return spelled_deadline(said)
        case "token":
            return spelled_token(said)
        case "quota":
            return spelled_quotas(said)
        case "priority":
            return policy.priority.name.lower()
        case "message":
            return spelled_message(said.message)
        case "shadow":
            shadow = policy.shadow
            tried = [f"{each} {spelled_demand(shadow, each)}" for each in policy.tried] if shadow else []
            return "; ".join(tried) or "none"
        case "idempotency":
            return policy.idempotency.value
        case _:
            return str(getattr(policy, name)).lower()


def spelled_callers(policy: policy_pb2.Policy) -> str:
    if policy.anonymous:
        return "anyone, without certificate"
    return ", ".join(policy.callers) or "nobody"


def spelled_quotas(policy: policy_pb2.Policy) -> str:
    return "; ".join(map(_quota, policy.quota)) or "none"


def spelled_token(policy: policy_pb2.Policy) -> str:
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
    by = quota.header or choice(policy_pb2.Quota.Key.Name(quota.key))
    return f"{quota.limit}{units} in {seconds(quota.per)}, {quota.burst} at once, by {by}"


def choice(name: str) -> str:
    """PRIORITY_HIGH as people write it."""
    return name.partition("_")[2].lower()


def spelled_deadline(policy: policy_pb2.Policy) -> str:
    if not policy.HasField("deadline"):
        return "any"
    deadline = policy.deadline
    parts = ["required"] if deadline.required else []
    parts += [f"default {seconds(deadline.default)}"] if deadline.HasField("default") else []
    parts += [f"max {seconds(deadline.max)}"] if deadline.HasField("max") else []
    return ", ".join(parts)


def spelled_message(bounds: policy_pb2.MessageBounds) -> str:
    size, unit = bounds.max_bytes, "B"
    for larger in ("KiB", "MiB"):
        if size % 1024 == 0:
            size, unit = size // 1024, larger
    return f"{size} {unit}, {bounds.max_items} items"


def seconds(duration: Any) -> str:
    return f"{duration.ToTimedelta().total_seconds():g} s"


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
        "key": choice(policy_pb2.Quota.Key.Name(quota.key)),
        "header": quota.header,
        "cost": quota.cost,
    }


def _json_seconds(deadline: policy_pb2.Deadline, name: str) -> float | None:
    return float(getattr(deadline, name).ToTimedelta().total_seconds()) if deadline.HasField(name) else None
