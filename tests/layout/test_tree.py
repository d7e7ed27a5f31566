"""What keeps the tree readable: relative links, short files, short functions, no rooms for lost things."""

import ast
import re
from pathlib import Path

from tests.layout.tree import LINKED, ROOT, by_hand, python_by_hand, sources

LONGEST_FILE = 350
LONGEST_FUNCTION = 60
LOST_THINGS = {"utils", "util", "helpers", "helper", "common", "base", "misc"}
# Written in parts, so that this file does not hold what it looks for.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("proxy", "golang", "org"),
        ("crates", "io"),
        ("maven", "org"),
        ("maven", "apache", "org"),
        ("deb", "debian", "org"),
    )
]


def test_the_four_folders_are_reached_by_relative_links() -> None:
    links = {name: (ROOT / "hauberk" / name).readlink() for name in LINKED}
    assert links == {name: Path("..", name) for name in LINKED}


def test_no_other_link_leads_out_of_the_tree() -> None:
    links = [path for path in sources() if (ROOT / path).is_symlink()]
    assert [path for path in links if (ROOT / path).readlink().is_absolute()] == []
    assert [path for path in links if not (ROOT / path).resolve().is_relative_to(ROOT)] == []


def test_no_file_is_too_long_to_read_in_one_sitting() -> None:
    written = [path for path in sources() if by_hand(path) and path.suffix in {".py", ".sh", ".proto"}]
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in written}
    assert {str(path): lines for path, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_no_function_tells_more_than_one_story() -> None:
    long = [
        f"{path}:{node.lineno} {node.name} has {lines} lines"
        for path in python_by_hand()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    ]
    assert long == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path) for path in python_by_hand() if (tree := parsed(path)).body and not ast.get_docstring(tree)
    ]
    assert silent == []


def test_no_module_is_a_room_for_lost_things() -> None:
    assert [str(path) for path in python_by_hand() if LOST_THINGS & {path.stem, *path.parts[:-1]}] == []


def test_no_file_names_a_package_registry() -> None:
    named = re.compile("|".join(re.escape(host) for host in REGISTRY_HOSTS))
    found = []
    for path in sources():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except (UnicodeDecodeError, IsADirectoryError):
            continue
        found += [f"{path}: {match.group()}" for match in named.finditer(text)]
    assert found == []


def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))
