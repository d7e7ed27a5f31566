"""Restores a mesh again and again, each time in a process that dies one step later than the last.

A step is what the interpreter audits: making, renaming, removing. One JSON line each. Run by
test_restore_crash.py as a process of its own, because it forks. Arguments: the folder of the mesh, its
backup, a work folder.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from hauberk.cli.state import State
from tests.cli.saved import Saved, read

STEPS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
CRASHED = 9


def restore_and_die(mesh: Saved, backup: Path, step: int) -> None:
    """Lives to the end if `step` is beyond it."""
    left = step

    def count(event: str, _: tuple[object, ...]) -> None:
        nonlocal left
        if event in STEPS:
            left -= 1
            if left < 0:
                os._exit(CRASHED)

    sys.addaudithook(count)
    os._exit(mesh.run("restore", str(backup), "--force").exit_code)


def found(mesh: Saved) -> str:
    """What `hauberk up` would find."""
    refusal = mesh.run("ca", "init").stderr
    if "a restore was ended half-way" in refusal:
        return "half"
    if "there is an authority already" not in refusal:
        return f"a new CA: {refusal}"
    return " ".join(mesh.read())


def main() -> int:
    original, backup, work = map(Path, sys.argv[1:])
    step, code = 0, CRASHED
    while code == CRASHED:
        shutil.copytree(original, work / str(step))
        mesh = Saved(State.beside(work / str(step) / "mesh.toml"))
        child = os.fork()
        if child == 0:
            restore_and_die(mesh, backup, step)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = found(mesh)
        healed = mesh.run("restore", str(backup), "--force").exit_code == 0 and found(mesh)
        old = [str(path) for path in mesh.state.folder.rglob("idle.db") if read(path) == ["first", "second"]]
        entries = sorted(path.name.partition("-")[0] for path in mesh.state.folder.iterdir())
        print(
            json.dumps({"code": code, "left": left, "healed": healed, "old": old, "entries": entries}),
            flush=True,
        )
        step += 1
    return code


if __name__ == "__main__":
    sys.exit(main())
