"""The fields of one request, read strictly: every violation is gathered, then all are refused at once.

What each field must be stands in the `checked.py` of the service that reads it. Nothing unreadable gets to a
store: PostgreSQL, for one, has no text with a NUL in it.
"""

import re

from hauberk.services.refusal import InvalidFields


class Fields:
    """Gathers what is wrong with a request. Each method returns the value it was given, or a harmless one."""

    def __init__(self) -> None:
        self._violations: list[tuple[str, str]] = []

    def wrong(self, path: str, rule: str) -> None:
        self._violations.append((path, rule))

    def matching(self, path: str, value: str, grammar: re.Pattern[str], rule: str) -> str:
        """Text that the grammar matches from end to end."""
        if grammar.fullmatch(value) is None:
            self.wrong(path, rule)
        return value

    def text(self, path: str, value: str, *, longest: int) -> str:
        """1 to `longest` printable characters (no line breaks, no controls)."""
        if not 1 <= len(value) <= longest or not value.isprintable():
            self.wrong(path, f"must be 1 to {longest} printable characters")
        return value

    def number(self, path: str, value: int, *, least: int, most: int) -> int:
        if not least <= value <= most:
            self.wrong(path, f"must be {least} to {most}")
            return least
        return value

    def settle(self) -> None:
        """Raises InvalidFields if anything was wrong."""
        if self._violations:
            raise InvalidFields(self._violations)
