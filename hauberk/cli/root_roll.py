"""The whole roll of the root: each step once it cuts off nobody, from wherever the roll stands.

Everything is asked of the control plane anew each time, which may be restarted meanwhile, as may we: nothing
is remembered here.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc

from hauberk.certs.identity import SpiffeId
from hauberk.cli.dial import CALL_S, control_plane, error_infos, failure
from hauberk.cli.errors import NotRunning
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
    begun, told = False, None
    while True:
        stands = await stood(state)
        if begun and stands.next == PREPARE:
            return
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
        begun, told = True, None


async def stood(state: State) -> admin_pb2.RootRoll:
    """Where the roll stands. Raises CommandFailed."""
    try:
        answer = await _asked(state, lambda admin: admin.ListRoots(_ROOTS, timeout=CALL_S))
    except grpc.aio.AioRpcError as error:
        raise failure(error, "the control plane") from None
    roll: admin_pb2.RootRoll = answer.roll
    return roll


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
    """Whether the step was taken; not if somebody who is cut off by it has turned up since we asked."""
    request = admin_pb2.RollRootRequest(step=step)
    try:
        await _asked(state, lambda admin: admin.RollRoot(request, timeout=CALL_S))
    except grpc.aio.AioRpcError as error:
        if any(info.reason == "OLD_ROOT_IN_USE" for info in error_infos(error)):
            return False
        raise failure(error, "the control plane") from None
    return True


async def _asked(state: State, ask: Callable[[Any], Any]) -> Any:
    """The answer; waits for a control plane that is being restarted. Raises AioRpcError for other errors."""
    ends = time.monotonic() + PATIENCE_S
    while True:
        error: Exception
        try:
            async with control_plane(state) as admin:
                try:
                    return await ask(admin)
                except grpc.aio.AioRpcError as failed:
                    error = failed
        except NotRunning as not_running:
            error = not_running
        away = not isinstance(error, grpc.aio.AioRpcError) or error.code() is grpc.StatusCode.UNAVAILABLE
        if not away or time.monotonic() > ends:
            raise error
        await asyncio.sleep(POLL_S)


def _holder(holder: admin_pb2.Holder) -> dict[str, Any]:
    return {
        "name": SpiffeId.parse(holder.spiffe_id).name,
        "spiffe_id": holder.spiffe_id,
        "certificates": holder.certificates,
        "until": instant(holder.until),
        "replicas": list(holder.replicas),
    }
