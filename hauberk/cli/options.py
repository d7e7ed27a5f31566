"""What several commands take: which mesh, and whether a script reads the answer."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from hauberk.cli.state import State

F = TypeVar("F", bound=Callable[..., Any])


def mesh_option(function: F) -> F:
    """--mesh FILE, given to the command as `state`."""
    option = click.option(
        "--mesh",
        "state",
        default="mesh.toml",
        envvar="HAUBERK_MESH",
        metavar="FILE",
        show_default=True,
        callback=lambda _, __, value: State.beside(Path(value)),
        help="The mesh to speak with; its state lies in .hauberk/ beside it.",
    )
    return option(function)


def json_option(function: F) -> F:
    """--json, given to the command as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Answer with JSON, for scripts.")(function)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The rows under their heads, in aligned columns."""
    lines = [list(heads), *([cell or "-" for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
