"""Writes credentials again and again, each time in a process that dies one step later than the last.

A step is what the interpreter audits: opening, making, linking, renaming, removing. One JSON line each.
Run by test_store_crash.py as a process of its own, because it forks.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from hauberk.certs.credentials import Credentials
from hauberk.certs.errors import StoreError
from hauberk.certs.store import CredentialStore

STEPS = {"open", "os.mkdir", "os.symlink", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}
CRASHED = 9


def write_and_die(store: CredentialStore, credentials: Credentials, step: int) -> None:
    """Lives to the end if `step` is beyond it."""
    left = step

    def count(event: str, _: tuple[object, ...]) -> None:
        nonlocal left
        if event in STEPS:
            left -= 1
            if left < 0:
                os._exit(CRASHED)

    sys.addaudithook(count)
    store.write(credentials)
    os._exit(0)


def found(store: CredentialStore, known: dict[str, Credentials]) -> str:
    """Which of the known credentials the store holds."""
    try:
        loaded = store.load()
    except StoreError as error:
        return str(error)
    return next((name for name, credentials in known.items() if credentials == loaded), "others")


def crash(folder: Path, known: dict[str, Credentials], step: int) -> int:
    """Reports what is left after a crash at `step`, and after the write that follows; the exit code."""
    store = CredentialStore(folder)
    child = os.fork()
    if child == 0:
        write_and_die(store, known["new"], step)
    sys.stdout.flush()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = found(store, known)
    store.write(known["next"])
    entries = sorted(path.name for path in folder.iterdir())
    print(json.dumps({"code": code, "left": left, "healed": found(store, known), "entries": entries}))
    return code


def main() -> None:
    """Arguments: a store with a history, one with the new credentials, one with the next; a work folder."""
    history, new, following, work = map(Path, sys.argv[1:])
    stores = {"old": history, "new": new, "next": following}
    known = {name: CredentialStore(folder).load() for name, folder in stores.items()}
    loaded = {name: credentials for name, credentials in known.items() if credentials is not None}
    step, code = 0, CRASHED
    while code == CRASHED:
        folder = work / str(step)
        shutil.copytree(history, folder, symlinks=True)
        code = crash(folder, loaded, step)
        step += 1


if __name__ == "__main__":
    main()
