"""The wall clock of one process, moved while it runs, by Debian's faketime."""

from collections.abc import Mapping
from pathlib import Path

import pytest

_PLACES = ("usr/lib/*/faketime", "usr/lib/faketime", "usr/lib64/faketime", "usr/local/lib/faketime")


class WallClock:
    """Give a process `environment`; `set` moves its clock, and its clock alone. Steady clocks are left."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set("+0")

    @property
    def environment(self) -> Mapping[str, str]:
        """Skips the test where there is no faketime."""
        found = [path for place in _PLACES for path in Path("/").glob(f"{place}/libfaketime.so.1")]
        if not found:
            pytest.skip("moving a clock needs faketime: apt-get install faketime")
        return {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: str) -> None:
        """By "+5h", "-5h" or "+0", from the machine's own."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(offset + "\n")
        fresh.replace(self._file)
