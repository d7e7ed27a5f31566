"""The [policy] tables of mesh.toml while `hauberk up` runs: what is written there is soon in force."""

import asyncio
from collections.abc import Awaitable, Callable

from hauberk.cli.errors import CommandFailed
from hauberk.cli.mesh_file import MeshFile
from hauberk.cli.state import State

LOOK_S = 0.25
"""Between two looks at the file."""


async def keep_overriding(
    state: State, mesh: MeshFile, override: Callable[[MeshFile], Awaitable[str]], say: Callable[[str], None]
) -> None:
    """Call `override` with each mesh file whose [policy] is another than in `mesh`; for ever.

    What is wrong with the file, or cannot be enforced, is said, and what was in force stays so. Of its other
    tables nothing is taken: they are the next start's.
    """
    seen, in_force = _stamp(state), mesh.policy
    while True:
        await asyncio.sleep(LOOK_S)
        if (now := _stamp(state)) == seen:
            continue
        seen = now
        try:
            written = state.mesh()
            if written.policy == in_force:
                continue
            say(await override(written))
            in_force = written.policy
        except CommandFailed as error:
            step = f"; {error.next_step}" if error.next_step else ""
            say(f"what is overridden stays as it was: {error.message}{step}")


def _stamp(state: State) -> tuple[int, int, int] | None:
    """Other than before, if the file was written or another put in its place."""
    try:
        found = state.mesh_file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
