"""The locks: complete, hashed, in step with pyproject.toml and with one another, and bound to no index."""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.layout.tree import ROOT

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(
    r"^([a-z0-9.-]+)==([^ ]+)((?: ; [^\\]+)?) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
    re.MULTILINE,
)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_is_nothing_but_pins_with_hashes(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    rest = [line for line in PIN.sub("", text).splitlines() if not line.lstrip().startswith("#")]
    assert PIN.search(text)
    assert rest == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_names_no_index(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert re.findall(r"--(?:extra-)?index-url|--find-links|--trusted-host|https?:|file:", text) == []


def test_the_runtime_lock_fits_what_the_project_asks_for() -> None:
    assert unmet(pyproject()["project"]["dependencies"], "runtime.txt") == []


def test_the_development_lock_fits_everything_the_project_asks_for() -> None:
    project = pyproject()["project"]
    extras = [wanted for extra in project["optional-dependencies"].values() for wanted in extra]
    assert unmet(project["dependencies"] + extras + pyproject()["dependency-groups"]["dev"], "dev.txt") == []


def test_the_lock_of_the_benchmarks_fits_what_they_ask_for() -> None:
    project = pyproject()
    assert (
        unmet(project["project"]["dependencies"] + project["dependency-groups"]["bench"], "bench.txt") == []
    )


def test_benchmarks_measure_exactly_what_is_shipped() -> None:
    shipped, measured = pins("runtime.txt"), pins("bench.txt")
    assert shipped == {name: measured.get(name) for name in shipped}


def test_developers_run_exactly_what_is_shipped() -> None:
    shipped, developed = pins("runtime.txt"), pins("dev.txt")
    assert shipped == {name: developed.get(name) for name in shipped}


@cache
def pins(lock: str) -> dict[str, str]:
    text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
    return {canonicalize_name(name): version for name, version, _, _ in PIN.findall(text)}


def unmet(wanted: list[str], lock: str) -> list[str]:
    """The requirements that no pin of the lock satisfies."""
    locked = pins(lock)
    asked = [Requirement(text) for text in wanted]
    return [
        str(one)
        for one in asked
        if not one.specifier.contains(locked.get(canonicalize_name(one.name), "0"), prereleases=True)
    ]


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
