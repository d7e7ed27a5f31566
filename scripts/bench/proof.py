"""That a variant does what it is said to do: before anything is measured, what it has to refuse is refused.

A check that does not run costs nothing, and would look cheap.
"""

import asyncio
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from scripts.bench.contract import CLIENT, DEADLINE_S, SERVICE, UNARY, request
from scripts.bench.processes import Void
from scripts.bench.targets import Run, Target

SETTLED_S = 3.0
"""Until lines and spans of refused calls are written: they must not be counted as those of others."""
_BEGINS = 16 * 1024
"""Bytes of a log in which a server has said where its metrics are."""
_STOLEN = {"x5t#S256": "A" * 43}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bad:
    """A call to be refused: with which status, and by which feature."""

    feature: str
    status: str
    token: str | None
    timeout: float | None = DEADLINE_S
    quantity: int = 3


async def prove(targets: Sequence[Target], run: Run) -> None:
    """Raise Void unless each target refuses what it has to, with the status that says so."""
    for target in targets:
        for bad in _bad(target, run):
            if bad.feature not in target.variant.without:
                found = await _status(target, bad, run)
                if found != bad.status:
                    name = target.variant.name
                    raise Void(f"{name} does not enforce {bad.feature}: {found}, not {bad.status}")
    await asyncio.sleep(SETTLED_S)


def check_metrics(target: Target) -> None:
    """Raise Void unless the metrics of `target` tell of as many calls as its log."""
    if not target.metered or target.lines is None:
        return
    with target.processes[0].log.open("rb") as log:
        begins = log.read(_BEGINS).decode("utf-8", "replace")
    address = begins.partition("metrics are at ")[2].partition("\n")[0]
    with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 - http, of this machine
        told = answer.read().decode()
    begun = sum(
        float(line.rpartition(" ")[2])
        for line in told.splitlines()
        if line.startswith("grpc_server_call_started_total{") and SERVICE in line
    )
    if begun != target.lines.read():
        raise Void(f"{target.variant.name}: metrics of {begun:.0f} calls, {target.lines.count} lines")


def _bad(target: Target, run: Run) -> list[_Bad]:
    good, unknown = run.tokens[0], "UNAUTHENTICATED"
    forged = good[:-8] + ("A" * 8 if good[-8:] != "A" * 8 else "B" * 8)
    tokens = [
        _Bad(feature="token", status=unknown, token=None),
        _Bad(feature="token", status=unknown, token=forged),
    ]
    if target.variant.kind == "usual" or target.variant.name.startswith("Envoy"):
        return tokens
    if not target.variant.ours or target.variant.our_channel:
        return []
    return [
        *tokens,
        _Bad(feature="token", status=unknown, token=run.mint.token(cnf=_STOLEN)),
        _Bad(feature="roles", status="PERMISSION_DENIED", token=run.mint.token(roles=[CLIENT])),
        _Bad(feature="deadline", status="FAILED_PRECONDITION", token=good, timeout=None),
        _Bad(feature="validation", status="INVALID_ARGUMENT", token=good, quantity=0),
    ]


async def _status(target: Target, bad: _Bad, run: Run) -> str:
    call: Any = target.channel.unary_unary(UNARY)
    metadata = () if bad.token is None else (("authorization", f"Bearer {bad.token}"),)
    try:
        await call(request(run.contract, bad.quantity), timeout=bad.timeout, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"
