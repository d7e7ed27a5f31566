"""The whole roll of the root: each step once it cuts off nobody, from wherever the roll stands.

Everything is asked of the control plane anew each time, which may be restarted meanwhile, as may we: nothing
is remembered here.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import grpc

from hauberk.certs.identity import SpiffeId
from hauberk.cli.dial import CALL_S, control_plane, error_infos, failure
from hauberk.cli.errors import CommandFailed, NotRunning
from hauberk.cli.options import instant
from hauberk.cli.state import State
from hauberk.protos.hauberk.control.v1 import admin_pb2

_ROOTS = admin_pb2.ListRootsRequest()
PREPARE, ACTIVATE = admin_pb2.RollRootRequest.STEP_PREPARE, admin_pb2.RollRootRequest.STEP_ACTIVATE
POLL_S = 1.0
PATIENCE_S = 60.0
"""How long the control plane may be away."""

Tell = Callable[[dict[str, Any]], None]
"""Called at each change: the step taken (`step`), or the step that waits (`next`) and `waiting_for` whom."""


async def roll(state: State, tell: Tell) -> None:
    """Roll the root, or finish the roll that is under way. Raises CommandFailed."""
    under_way, told = False, None
    while True:
        stands = await stood(state)
        if under_way and stands.next == PREPARE:
            return
        under_way = stands.next != PREPARE
        if stands.waiting_for:
            if (described := progress(stands)) != told:
                tell(told := described)
            await asyncio.sleep(POLL_S)
            continue
        if stands.next == ACTIVATE:
            await asyncio.sleep(stands.settle.ToTimedelta().total_seconds())
            if (await stood(state)).waiting_for:
                continue
        if await _taken(state, stands.next):
            tell({"step": step_name(stands.next)})
        told = None


async def stood(state: State) -> admin_pb2.RootRoll:
    """Where the roll stands; waits for a control plane that is being restarted. Raises CommandFailed."""
    ends = time.monotonic() + PATIENCE_S
    while True:
        failed: CommandFailed
        try:
            async with control_plane(state) as admin:
                try:
                    roll: admin_pb2.RootRoll = (await admin.ListRoots(_ROOTS, timeout=CALL_S)).roll
                    return roll
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    failed = failure(error, "the control plane")
        except NotRunning as not_running:
            failed = not_running
        if time.monotonic() > ends:
            raise failed
        await asyncio.sleep(POLL_S)


def progress(stands: admin_pb2.RootRoll) -> dict[str, Any]:
    """What is next, and whom it waits for, as `ca show --json` prints it."""
    return {"next": step_name(stands.next), "waiting_for": [_holder(each) for each in stands.waiting_for]}


def lines(described: dict[str, Any]) -> list[str]:
    """The same for people: whom the next step waits for, one a line."""
    next_step, waiting = described["next"], described["waiting_for"]
    if not waiting:
        return [] if next_step == "prepare" else [f"{next_step} cuts off nobody"]
    why = "not told of the new root yet" if next_step == "activate" else "certificates of the old root"
    return [
        f"{next_step} waits: {why}:",
        *(
            f"  {each['name']}: {each['certificates']} valid until {each['until']}"
            + (f", replica {', '.join(each['replicas'])}" if each["replicas"] else "")
            for each in waiting
        ),
    ]


def step_name(step: int) -> str:
    return admin_pb2.RollRootRequest.Step.Name(step).removeprefix("STEP_").lower()


async def _taken(state: State, step: Any) -> bool:
    """Whether the step was taken, as far as we were told; where not, it is looked at anew where the roll
    stands: the control plane may have taken it and been lost, or somebody it cuts off has turned up.
    """
    request, answered = admin_pb2.RollRootRequest(step=step), False
    with contextlib.suppress(NotRunning):
        async with control_plane(state) as admin:
            try:
                await admin.RollRoot(request, timeout=CALL_S)
                answered = True
            except grpc.aio.AioRpcError as error:
                in_use = any(info.reason == "OLD_ROOT_IN_USE" for info in error_infos(error))
                if not in_use and error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
    if not answered:
        await asyncio.sleep(POLL_S)
    return answered


def _holder(holder: admin_pb2.Holder) -> dict[str, Any]:
    return {
        "name": SpiffeId.parse(holder.spiffe_id).name,
        "spiffe_id": holder.spiffe_id,
        "certificates": holder.certificates,
        "until": instant(holder.until),
        "replicas": list(holder.replicas),
    }
