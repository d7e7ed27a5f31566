"""The time that tokens and quotas go by in a test."""

import time


class Clock:
    """Stands still until it is told to go on. It begins at the time of day.

    Deadlines, and the certificates, go by the real one.
    """

    def __init__(self) -> None:
        self.now = time.time()
        """Seconds since 1970."""

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds:g} s")
        self.now += seconds
