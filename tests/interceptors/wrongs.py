"""What can be wrong while a call is made, and how it is put right again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from hauberk.interceptors.in_flight import UNREAD_BYTES
from tests.interceptors.matrix_scene import LINGER, ME, Scene, Sent
from tests.interceptors.token_calls import bearer
from tests.interceptors.token_forge import KID, jwk


@asynccontextmanager
async def nothing(scene: Scene) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def door(scene: Scene, name: str, value: Any, right: Any) -> AsyncIterator[None]:
    setattr(scene.stage.guard, name, value)
    yield
    setattr(scene.stage.guard, name, right)


@asynccontextmanager
async def revoked(scene: Scene) -> AsyncIterator[None]:
    scene.stage.trust.set(scene.trusting(revoked=ME))
    yield
    scene.stage.trust.set(scene.trusting())


@asynccontextmanager
async def federated(scene: Scene) -> AsyncIterator[None]:
    scene.stage.trust.set(scene.trusting(stranger=True))
    yield


@asynccontextmanager
async def passed(scene: Scene, time: timedelta) -> AsyncIterator[None]:
    scene.clock.now += time
    yield
    scene.clock.now -= time


@asynccontextmanager
async def held(scene: Scene) -> AsyncIterator[None]:
    """One call stays in its method."""
    made = scene.asked(LINGER)
    await scene.begun(1)
    yield
    scene.released.set()
    await scene.answered(made)


@asynccontextmanager
async def busy(scene: Scene) -> AsyncIterator[None]:
    """The same on a server that has one place, and in threads none to wait in."""
    if scene.threaded:
        scene.stage.guard.workers.most_waiting = 0  # type: ignore[attr-defined]
    async with held(scene):
        yield


@asynccontextmanager
async def unread(scene: Scene) -> AsyncIterator[None]:
    """The caller has left half of what it may lie unread."""
    sent: Any = scene.stage.guard.in_flight.send(SimpleNamespace(slot=ME), UNREAD_BYTES)  # type: ignore[arg-type]
    yield
    sent()


@asynccontextmanager
async def once_it_runs(
    scene: Scene, act: Callable[[], None], undo: Callable[[], None]
) -> AsyncIterator[None]:
    async def acting() -> None:
        await scene.begun(1)
        act()

    waiting = asyncio.create_task(acting())
    yield
    await waiting
    undo()


def revoked_meanwhile(scene: Scene) -> Any:
    trust = scene.stage.trust
    return once_it_runs(
        scene, lambda: trust.set(scene.trusting(revoked=ME)), lambda: trust.set(scene.trusting())
    )


def cleared_meanwhile(scene: Scene) -> Any:
    guard = scene.stage.guard
    return once_it_runs(scene, guard.clear, lambda: setattr(guard, "draining", False))


@asynccontextmanager
async def failed_before(scene: Scene) -> AsyncIterator[None]:
    bad = Sent(metadata=lambda scene: bearer(scene.forge.token(key=scene.forge.stranger)))
    assert (await scene.send(bad)).code == "UNAUTHENTICATED"
    yield


@asynccontextmanager
async def stale(scene: Scene) -> AsyncIterator[None]:
    scene.forge.publish(jwk(scene.forge.key, KID), for_s=-1)
    yield
    scene.forge.publish(jwk(scene.forge.key, KID))


@asynccontextmanager
async def spent(scene: Scene, *asks: bytes) -> AsyncIterator[None]:
    """The caller's quota, by a call of its own."""
    assert (await scene.send(Sent(asks=asks))).code == "OK"
    yield


@asynccontextmanager
async def unwritable(scene: Scene) -> AsyncIterator[None]:
    """A file lies where the folder should be."""
    place = scene.folder / "audit"
    place.write_text("")
    yield
    place.unlink()
