"""A log that says the same thing once in a while, however often it happens."""

import logging
import time
from collections.abc import Callable

EVERY_S = 5.0


class Sparing(logging.Filter):
    """Lets one record of a kind pass every EVERY_S seconds, with the number of those kept back since.

    Records are of a kind if they have the same level and the same text before their arguments are put in.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[int, str], tuple[float, int]] = {}
        """When the last of a kind passed, and how many were kept back since."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind, now = (record.levelno, str(record.msg)), self._clock()
        passed_at, kept_back = self._kinds.get(kind, (now - EVERY_S, 0))
        if now - passed_at < EVERY_S:
            self._kinds[kind] = (passed_at, kept_back + 1)
            return False
        self._kinds[kind] = (now, 0)
        if kept_back:
            record.msg = f"{record.msg} (and {kept_back} more such)"
        return True
