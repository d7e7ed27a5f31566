"""`hauberk policy explain`: what each check would answer to one caller, and where each demand is written."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click
from google.protobuf.descriptor import Descriptor

from hauberk.cli.dry_run import Shown, shown_by
from hauberk.cli.enforced import Enforced, enforced_of
from hauberk.cli.errors import CommandFailed
from hauberk.cli.mesh_file import MeshFile
from hauberk.cli.options import json_option, mesh_option, print_json, table
from hauberk.cli.policy_check import on_disk, protos_option
from hauberk.cli.policy_words import (
    spelled_callers,
    spelled_deadline,
    spelled_message,
    spelled_quotas,
    spelled_token,
)
from hauberk.cli.state import State
from hauberk.cli.written import Written
from hauberk.interceptors.errors import PolicyError, TokenRefused
from hauberk.interceptors.explaining import Answer, explain, first_refusal
from hauberk.interceptors.policy import Policy
from hauberk.interceptors.token_check import Tokens
from hauberk.token_issuers import Believed, KeyKeepers, declared

_EVERY_CALL = "asked of every call"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One check as it is told."""

    check: str
    answer: str
    """"passes", "refuses", "would refuse" (in shadow), "not asked", or "asked later"."""
    why: str
    where: str
    status: str | None = None
    reason: str | None = None
    """Of a refusal; as the server's log has it, not always as the caller hears it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A method and what is demanded of it, as one version of it has it."""

    policy: Policy
    place: Callable[[str], object] = field(repr=False)
    """Where a demand is written."""
    whose: str
    """Who enforces it."""
    request: Descriptor | None = field(default=None, repr=False)


@click.command(
    "explain", epilog="Example:  hauberk policy explain shop.orders.v1.Orders/PlaceOrder --caller gateway"
)
@click.argument("method", metavar="SERVICE/METHOD")
@click.option("--caller", required=True, metavar="NAME", help="Who calls.")
@click.option("--token", type=Path, metavar="FILE", help="An access token that the call brings.")
@click.option("--deadline", default=10.0, show_default=True, help="Seconds the call has; 0: no deadline.")
@click.option("--running", is_flag=True, help="As the replicas alive enforce it, and not as it is on disk.")
@protos_option
@mesh_option
@json_option
def explain_command(
    method: str,
    caller: str,
    token: Path | None,
    deadline: float,
    running: bool,
    protos: tuple[Path, ...],
    state: State,
    as_json: bool,
) -> None:
    """Tell what each check would answer to a call, in the order in which they are asked, and why.

    The checks are those that servers run, compiled here from the same policy; tokens are verified with the
    issuers of mesh.toml. No call is made, and nothing is counted.
    """
    logging.getLogger("hauberk.interceptors.token_check").setLevel(logging.WARNING)  # it is told below
    mesh, path = state.mesh(), f"/{method.lstrip('/')}"
    written = Written(state, mesh, on_disk(state, mesh, protos))
    subjects = _alive(state, written, path) if running else _of_disk(written, path)
    text = None if token is None else _read(token)
    told = [asyncio.run(_told(state, mesh, each, caller, text, deadline or None)) for each in subjects]
    if as_json:
        print_json(told)
        return
    click.echo("\n\n".join(map(_text, told)))


def _of_disk(written: Written, path: str) -> list[Subject]:
    """The method as contract and mesh file have it."""
    found = written.method(path)
    if found is None:
        next_step = "name its folder: --protos FOLDER; or ask the mesh: --running"
        raise CommandFailed(f"no contract on disk has {path[1:]}", next_step)
    assert found.policy is not None  # noqa: S101 - or it would have been refused
    request = written.request(path)
    return [Subject(policy=found.policy, place=found.place, whose="as it is on disk", request=request)]


def _alive(state: State, written: Written, path: str) -> list[Subject]:
    """The method as replicas enforce it, each version by itself."""
    found = asyncio.run(enforced_of(state, path))
    if not found:
        raise CommandFailed(f"nobody has announced {path[1:]}", "what there is: hauberk policy show")
    return [_of_replicas(each, written) for each in found]


def _of_replicas(each: Enforced, written: Written) -> Subject:
    policy = each.policy
    known = written.contracts.methods.get(policy.method)

    def place(demand: str) -> str:
        if demand in policy.overridden:
            return "an operator's override"
        return f"{policy.origin} ({known.place(demand)})" if known else policy.origin

    request = written.request(policy.method)
    return Subject(policy=policy, place=place, whose=f"as {each.replicas} enforce it", request=request)


async def _told(
    state: State, mesh: MeshFile, subject: Subject, caller: str, token: str | None, deadline_s: float | None
) -> dict[str, Any]:
    """Everything there is to say of one version of the method."""
    tokens = await _tokens(state, mesh, subject.policy)
    answers: list[Answer] = []
    for shown in shown_by(state, mesh, caller):
        answers = _answers(subject, shown, tokens, token, deadline_s)
        if not any(_of_another_certificate(each) for each in answers):
            break  # of several replicas, the one whose token it is
    refused = first_refusal(answers)
    lines = [*(_line(each, subject, shown) for each in answers), *_later(subject)]
    verdict = (
        "admitted" if refused is None or refused.refusal is None else f"refused: {refused.refusal.message}"
    )
    return {
        "method": subject.policy.method,
        "caller": str(shown.credentials.svid.spiffe_id),
        "policy": subject.whose,
        "admitted": refused is None,
        "verdict": verdict,
        "checks": [asdict(line) for line in lines],
    }


def _answers(
    subject: Subject, shown: Shown, tokens: Tokens | None, token: str | None, deadline_s: float | None
) -> list[Answer]:
    policy = replace(subject.policy, audit=False)  # whose check writes a line
    try:
        pipeline = shown.pipeline(policy, tokens, subject.request)
    except PolicyError as error:
        raise CommandFailed(f"no server can enforce it: {error}", "hauberk policy check") from None
    return explain(pipeline, shown.call(policy, token, deadline_s))


async def _tokens(state: State, mesh: MeshFile, policy: Policy) -> Tokens | None:
    """As the workload that serves the method believes them, with the keys of this moment."""
    if not mesh.tokens:
        return None
    service = policy.method[1:].partition("/")[0]
    audience = str(mesh.id_of(mesh.services.get(service, "unknown")))
    keepers = KeyKeepers(Believed(declared(mesh.tokens, "mesh.toml"), state.mesh_file.parent), audience)
    keeping = asyncio.create_task(keepers.keep())
    try:
        await keepers.tried()
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
    return keepers.tokens


def _line(answer: Answer, subject: Subject, shown: Shown) -> Line:
    mark, _, name = answer.demand.rpartition(" ") if answer.demand != "in flight" else ("", "", "in flight")
    policy = subject.policy.shadow if mark and subject.policy.shadow else subject.policy
    where = _EVERY_CALL if name in ("peer", "metadata", "in flight") else str(subject.place(_field(name)))
    if not answer.asked:
        why = "nothing to look at: refused above"
        return Line(check=answer.demand, answer="not asked", why=why, where=where)
    if answer.refusal is None:
        return Line(check=answer.demand, answer="passes", why=_passes(name, policy, shown), where=where)
    refusal = answer.refusal
    why = refusal.message
    if _of_another_certificate(answer):
        kept = (
            f"the one in {shown.file}"
            if shown.file
            else "one made for this, as none of it is on this machine"
        )
        why = f"the token is good, and bound to another certificate than {kept}"
    elif isinstance(refusal, TokenRefused):
        why = f"{why}: {refusal.found}"
    return Line(
        check=answer.demand,
        answer="would refuse" if mark else "refuses",
        why=why,
        where=where,
        status=refusal.status.name,
        reason=refusal.logged,
    )


def _passes(name: str, policy: Policy, shown: Shown) -> str:
    """What a check that passes has looked at."""
    said = policy.declared()
    match name:
        case "peer":
            until = shown.credentials.svid.expires_at
            whose = shown.file or "no certificate of it is here: one made for this"
            return f"valid until {until:%Y-%m-%dT%H:%M:%SZ}, not revoked ({whose})"
        case "callers":
            return f"among {spelled_callers(said)}"
        case "token":
            return spelled_token(said)
        case "quota":
            return f"{spelled_quotas(said)}: what is spent of it each replica knows, and here nothing is"
        case "roles" | "scopes":
            return ", ".join(getattr(said.token, name))
        case "claims":
            return ", ".join(claim.path for claim in said.token.claims)
        case "deadline":
            return spelled_deadline(said)
        case _:
            return ""


def _later(subject: Subject) -> Iterator[Line]:
    """What is asked once the call is let in, and of what is not here: load and message."""
    policy = subject.policy
    if policy.audit:
        why = "a line that it has begun is written before it does"
        yield Line(check="audit", answer="asked later", why=why, where=str(subject.place("audit")))
    why = f"under overload, priority {policy.priority.name.lower()}, or lower if the caller says so"
    yield Line(check="overload", answer="asked later", why=why, where=str(subject.place("priority")))
    why = f"{spelled_message(policy.declared().message)}, and the rules on its fields"
    yield Line(check="validation", answer="asked later", why=why, where=str(subject.place("message")))


def _of_another_certificate(answer: Answer) -> bool:
    return isinstance(answer.refusal, TokenRefused) and answer.refusal.found == "TOKEN_OF_ANOTHER_CERTIFICATE"


def _field(name: str) -> str:
    return "token" if name in ("roles", "scopes", "claims") else name


def _read(token: Path) -> str:
    try:
        return token.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no token"
        raise CommandFailed(f"--token {token}: {why}", "name a file that holds one JWT") from None


def _text(told: dict[str, Any]) -> str:
    heads = ("CHECK", "ANSWER", "WHY", "WHERE")
    rows = [
        (line["check"], line["answer"], f"{line['why']}{_code(line)}", line["where"])
        for line in told["checks"]
    ]
    head = f"{told['method']}, called by {told['caller']}, {told['policy']}: {told['verdict']}"
    return f"{head}\n{table(heads, rows)}"


def _code(line: dict[str, Any]) -> str:
    return f" ({line['status']}, {line['reason']})" if line["status"] else ""
