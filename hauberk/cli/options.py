"""What several commands take and give: which mesh, whether a script reads the answer, tables and instants."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any, TypeVar

import click
from google.protobuf.timestamp_pb2 import Timestamp

from hauberk.cli.errors import CommandFailed
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


def passphrase_option(help_text: str) -> Callable[[F], F]:
    """--passphrase-file FILE, given to the command as `passphrase`: what the file holds, or None."""

    def read(_: click.Context, __: click.Parameter, path: Path | None) -> bytes | None:
        if path is None:
            return None
        try:
            found = path.read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise CommandFailed(f"--passphrase-file {path}: {error.strerror}", "name a file") from None
        if not found:
            raise CommandFailed(f"--passphrase-file {path}: it is empty", "write the passphrase into it")
        return found

    return click.option(
        "--passphrase-file", "passphrase", type=Path, metavar="FILE", callback=read, help=help_text
    )


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


def instant(timestamp: Timestamp) -> str:
    """RFC 3339 to the second; empty if it is not set."""
    return timestamp.ToDatetime(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if timestamp.seconds else ""
