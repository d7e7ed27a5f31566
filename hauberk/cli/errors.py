"""How a command ends when it cannot do what it was asked: one line that says why, one that says what to
do.
"""

from typing import IO, Any

import click


class CommandFailed(click.ClickException):
    """`message` says what is wrong and where; `next_step` what to do about it. Exit code 1."""

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"hauberk: {self.message}", err=True, file=file)
        if self.next_step:
            click.echo(f"  next: {self.next_step}", err=True, file=file)


class MeshFileError(CommandFailed):
    """A mesh.toml that cannot be used; nothing was started."""


class NotRunning(CommandFailed):
    """No control plane runs for this mesh.toml."""


class NoAnswer(CommandFailed):
    """A server that was reached, or might have been, and did not answer in time."""


class BoundElsewhere(CommandFailed):
    """A contract that only `owner`, a workload's name, may serve."""

    def __init__(self, message: str, next_step: str, *, owner: str) -> None:
        super().__init__(message, next_step)
        self.owner = owner
