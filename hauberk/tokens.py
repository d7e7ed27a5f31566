"""Join tokens handed to this process: one through an inherited pipe, and those that appear in a file.

A token works once, so each is tried until the control plane has answered to it, and never again.
"""

import asyncio
import os
from pathlib import Path

from hauberk.certs import join
from hauberk.certs.errors import TokenRefused
from hauberk.errors import SettingsError

READ_S = 10.0
_LONGEST = 4096


class JoinTokens:
    """The tokens this process may still try."""

    def __init__(self, fd: int | None, file: Path | None) -> None:
        self._fd = fd
        self._file = file
        self._handed: str | None = None
        self._spent: set[bytes] = set()

    async def read(self) -> None:
        """Read the inherited descriptor to its end, and close it. Raises SettingsError if that fails."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            async with asyncio.timeout(READ_S):
                text = await asyncio.to_thread(_read_all, fd)
        except OSError as error:  # TimeoutError is one
            said = error.strerror or f"nothing came within {READ_S:g} s, or its other end was not closed"
            raise SettingsError(f"HAUBERK_JOIN_TOKEN_FD: cannot read descriptor {fd}: {said}") from error
        if text.strip():
            self._handed = _checked(text, f"HAUBERK_JOIN_TOKEN_FD: descriptor {fd}")

    def next(self) -> str | None:
        """A token that was not answered yet, or None. Raises SettingsError if the file's is none."""
        for token in (self._handed, self._in_file()):
            if token is not None and join.digest(token) not in self._spent:
                return token
        return None

    def answered(self, token: str) -> None:
        """The control plane has taken or refused `token`: it is of no use any more."""
        self._spent.add(join.digest(token))
        if token == self._handed:
            self._handed = None

    def _in_file(self) -> str | None:
        """What the file holds now: somebody may have put a new one there."""
        if self._file is None or not self._file.exists():
            return None
        try:
            text = self._file.read_text(encoding="ascii")[:_LONGEST]
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"HAUBERK_JOIN_TOKEN_FILE: cannot read {self._file}: {error}") from error
        return _checked(text, f"HAUBERK_JOIN_TOKEN_FILE: {self._file}") if text.strip() else None


def _read_all(fd: int) -> str:
    read = b""
    with os.fdopen(fd, "rb") as pipe:
        while len(read) < _LONGEST and (part := pipe.read1(_LONGEST)):
            read += part
    return read.decode("ascii", "replace")


def _checked(text: str, where: str) -> str:
    token = text.strip()
    try:
        join.digest(token)
    except TokenRefused as error:
        raise SettingsError(f"{where} holds no join token: {error}; make one: hauberk invite NAME") from error
    return token
