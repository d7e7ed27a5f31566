"""A mesh under `hauberk up` in a folder of its own, driven from outside as a user would."""

import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509

from hauberk.cli.state import State
from hauberk.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = [str(Path(sys.executable).with_name("hauberk"))]


def shop(*, svid_lifetime: str = "1h", once: Sequence[str] = (), replicas: int = 1) -> str:
    """The repository's own mesh.toml, with another lifetime, more processes of each service and other
    arguments for its shopper.
    """
    text = (REPOSITORY / "mesh.toml").read_text()
    text, lifetimes = re.subn(r'(?m)^svid_lifetime = ".*"$', f'svid_lifetime = "{svid_lifetime}"', text)
    assert lifetimes == 1, "mesh.toml names its svid_lifetime"
    if replicas > 1:
        text = re.sub(r"(?m)^(serves = .*)$", rf"\1\nreplicas = {replicas}", text)
    if once:
        arguments = "".join(f', "{argument}"' for argument in once)
        text, drivers = re.subn(r'("hauberk\.services\.shopper\.main")', rf"\1{arguments}", text)
        assert drivers == 1, "mesh.toml names the shopper"
        text = re.sub(r"(?m)^through = .*$", "", text)  # a load names no trace
    return text


def clean_environment() -> dict[str, str]:
    """Ours, without what another mesh may have left in it."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("HAUBERK_", "DATABASE_URL"))
    }


def up_once(folder: Path, *, timeout: float = 150) -> subprocess.CompletedProcess[str]:
    """`hauberk up --once` to its end."""
    return hauberk(folder, "up", "--once", timeout=timeout)


@contextlib.contextmanager
def running(folder: Path, *, timeout: float = 60) -> Iterator[subprocess.Popen[str]]:
    """`hauberk up`, from the moment it serves until Ctrl-C; raises if it does not serve or not stop."""
    with (folder / "up.log").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, "up"],
            cwd=folder,
            env=clean_environment(),
            text=True,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _until_all_serve(folder, process, time.monotonic() + timeout)
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def hauberk(folder: Path, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """One command of the CLI, beside the mesh.toml in `folder`."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=clean_environment(),
        text=True,
        capture_output=True,
        timeout=timeout,
        check=False,
    )


def replicas(folder: Path) -> list[dict[str, Any]]:
    """What `hauberk ps --json` lists."""
    listed = hauberk(folder, "ps", "--json")
    assert listed.returncode == 0, listed.stderr
    found: list[dict[str, Any]] = json.loads(listed.stdout)
    return found


def invited(folder: Path, name: str) -> Settings:
    """What a process of this name needs to join the mesh that runs in `folder`, a token included."""
    told = hauberk(folder, "invite", name)
    assert told.returncode == 0, told.stderr
    token = folder / f"{name}.token"
    token.touch(mode=0o600)
    token.write_text(told.stdout)
    state = State.beside(folder / "mesh.toml")
    return Settings(
        name=name,
        state_dir=folder / name,
        enrolment=state.running().enrolment,
        roots=state.roots,
        join_token_file=token,
    )


def _until_all_serve(folder: Path, process: subprocess.Popen[str], by: float) -> None:
    log = folder / "up.log"
    while "all serve after" not in log.read_text():
        assert process.poll() is None, log.read_text()
        if time.monotonic() > by:
            raise TimeoutError("the mesh did not serve in time:\n" + log.read_text())
        time.sleep(0.05)


class Serials:
    """The serial numbers of each process's certificates, gathered while the block runs."""

    def __init__(self, folder: Path) -> None:
        self._state = folder / ".hauberk"
        self._seen: dict[str, set[int]] = defaultdict(set)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._gather)

    def __enter__(self) -> dict[str, set[int]]:
        self._thread.start()
        return self._seen

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _gather(self) -> None:
        while not self._stop.wait(0.5):
            # By exact names: a walk would come upon generations that are being removed.
            for chain in self._state.glob("*/*/current/chain.pem"):
                with contextlib.suppress(OSError, ValueError):
                    name = str(chain.parent.parent.relative_to(self._state))
                    self._seen[name].add(x509.load_pem_x509_certificate(chain.read_bytes()).serial_number)
            with contextlib.suppress(OSError, ValueError, KeyError):
                self._seen["control"].add(self._of_control())

    def _of_control(self) -> int:
        """As its mesh port shows it in the handshake."""
        addresses = json.loads((self._state / "control" / "addresses.json").read_text())
        host, port = addresses["mesh"].rsplit(":", 1)
        pem = ssl.get_server_certificate((host, int(port)), timeout=2)
        return x509.load_pem_x509_certificate(pem.encode()).serial_number
