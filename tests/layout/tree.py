"""The repository as these tests see it: its files, which are written by hand, what they are called."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINKED = ("certs", "interceptors", "protos", "services")


def sources() -> list[Path]:
    """Every file, relative to ROOT: committed, or new and not ignored. Links are listed, not followed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    found = {Path(name) for name in listed.stdout.split("\0") if name}
    return sorted(path for path in found if (ROOT / path).exists())


def by_hand(path: Path) -> bool:
    """Whether somebody wrote this file: neither generated nor another project's contract."""
    generated = path.stem.endswith(("_pb2", "_pb2_grpc"))
    return not generated and path.parts[:2] != ("protos", "third_party")


def python_by_hand() -> list[Path]:
    return [path for path in sources() if path.suffix == ".py" and by_hand(path)]


def module_of(path: Path) -> str:
    """The one name under which a file may be imported: certs/keys.py is hauberk.certs.keys."""
    parts = path.with_suffix("").parts
    if parts[0] in LINKED:
        parts = ("hauberk", *parts)
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)
