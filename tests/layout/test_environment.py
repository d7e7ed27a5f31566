"""The installed packages get along: none overwrites another's files."""

from collections import defaultdict
from importlib.metadata import distributions
from pathlib import PurePosixPath


def test_no_two_installed_distributions_own_one_file() -> None:
    owners: defaultdict[str, set[str]] = defaultdict(set)
    for distribution in distributions():
        for file in distribution.files or ():
            if "__pycache__" not in file.parts and within(file):
                owners[file.as_posix()].add(distribution.name)
    assert {file: names for file, names in owners.items() if len(names) > 1} == {}


def within(file: PurePosixPath) -> bool:
    """Whether a file lies among the modules: commands in bin/ and man pages are listed as ../../../bin/x."""
    return file.parts[0] != ".."
