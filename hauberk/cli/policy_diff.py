"""`hauberk policy diff`: what would change if contracts and overrides on disk were enforced."""

import asyncio
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from hauberk.cli.contracts import Method
from hauberk.cli.enforced import Enforced, enforced_of
from hauberk.cli.options import json_option, mesh_option, print_json
from hauberk.cli.policy_check import on_disk, protos_option
from hauberk.cli.policy_words import as_json, spelled_demand
from hauberk.cli.state import State
from hauberk.cli.written import Written
from hauberk.interceptors.policy import Policy

ABSENT = "nobody serves it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One demand of one method that is not enforced as it is written."""

    method: str
    field: str
    """Of the policy; "shadow": what is only tried; "method": it is on one side alone."""
    enforced: Any
    written: Any
    where: str
    """Where it is written."""
    replicas: tuple[str, ...]
    """Those that enforce it so."""
    told: str
    """For people."""


@click.command("diff", epilog="Example:  hauberk policy diff && echo nothing would change")
@protos_option
@mesh_option
@json_option
def diff(protos: tuple[Path, ...], state: State, as_json: bool) -> None:
    """Show what contracts and mesh.toml on disk would change in what the replicas alive enforce.

    Method by method and demand by demand. An override is in force after `hauberk policy apply`, a contract
    once its service is built and started anew. Ends with 1 if there is any difference.
    """
    mesh = state.mesh()
    written = Written(state, mesh, on_disk(state, mesh, protos))
    alive = [each for each in asyncio.run(enforced_of(state)) if _service(each) in mesh.services]
    found = list(_changes(written, alive))
    if as_json:
        print_json([_json(change) for change in found])
    else:
        click.echo("\n".join(_lines(found)) or "what is enforced is what is written")
    if found:
        raise SystemExit(1)


def _changes(written: Written, alive: list[Enforced]) -> Iterator[Change]:
    for each in alive:
        known = _service(each) in written.contracts.services
        found = written.method(each.policy.method) if known else written.announced(each.declared)
        if found is None or found.policy is None:
            yield _alone(each.policy.method, "is enforced, and in no contract on disk", each.names, "-", True)
        else:
            yield from _of_method(each, found, found.policy)
    served = {each.policy.method for each in alive}
    for path, method in written.contracts.methods.items():
        if path not in served:
            yield _alone(path, f"is written, and {ABSENT}", (), str(method.declared), False)


def _of_method(each: Enforced, method: Method, policy: Policy) -> Iterator[Change]:
    before, after = _demands(each.policy), _demands(policy)
    for name in after:
        if before[name] != after[name]:
            yield Change(
                method=each.policy.method,
                field=name,
                enforced=before[name],
                written=after[name],
                where=str(method.place(name)),
                replicas=each.names,
                told=f"{spelled_demand(each.policy, name)}  ->  {spelled_demand(policy, name)}",
            )


def _demands(policy: Policy) -> dict[str, Any]:
    """Everything that is compared, by name."""
    shadow = as_json(policy.shadow.declared()) if policy.shadow else {}
    return {
        **as_json(policy.declared()),
        "idempotency": policy.idempotency.value,
        "shadow": {name: shadow[name] for name in policy.tried},
    }


def _alone(path: str, told: str, names: tuple[str, ...], where: str, is_enforced: bool) -> Change:
    return Change(
        method=path,
        field="method",
        enforced=is_enforced,
        written=not is_enforced,
        where=where,
        replicas=names,
        told=told,
    )


def _service(each: Enforced) -> str:
    return each.policy.method[1:].partition("/")[0]


def _lines(found: list[Change]) -> Iterator[str]:
    head = None
    for change in found:
        if head != (change.method, change.replicas):
            head = change.method, change.replicas
            by = ", ".join(name.rpartition("/")[2] for name in change.replicas)
            yield f"{change.method}{f', as {by} enforce it' if by else ''}"
        yield f"  {change.field}: {change.told}  ({change.where})"


def _json(change: Change) -> dict[str, Any]:
    said = asdict(change)
    del said["told"]
    return said
