"""The threads in which plain methods run: so many at a time, and some more for those that outlive their call.

A thread cannot be cancelled. A method that goes on after its call has ended is left behind: its thread counts
no more among those at work, and another takes its place. As many may be left behind as may work.

Jobs that wait go by priority, those of one in the order they came. Where too many wait, the youngest of the
lowest priority is shed.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from hauberk.interceptors.demands import Priority

_log = logging.getLogger(__name__)

Job = Callable[[], None]

MOST_WAITING = 1000
"""Jobs that no thread is meant for."""


class Workers:
    """Threads that are started as they are needed and end with `close`; none keeps the process alive."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a threaded server needs at least one worker: {limit}")
        self.limit = limit
        self.most_waiting = MOST_WAITING
        self._jobs: dict[Priority, deque[tuple[Job, Job]]] = {
            each: deque() for each in sorted(Priority, reverse=True)
        }
        """Each with what sheds it."""
        self._ready: SimpleQueue[bool] = SimpleQueue()
        """True for each job that waits for the thread which takes it, False for a thread to end."""
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        """Threads that no job is meant for yet."""
        self._backlog = 0
        """Jobs that no thread is meant for yet."""
        self._left_behind = 0
        self._closed = False

    @property
    def threads(self) -> int:
        """How many there are."""
        return self._threads

    @property
    def waiting(self) -> int:
        """How many jobs wait that no thread is meant for."""
        return self._backlog

    @property
    def left_behind(self) -> int:
        """How many run a method whose call has ended."""
        return self._left_behind

    def run(self, job: Job, priority: Priority, shed: Job) -> Job | None:
        """Have a thread do `job` as soon as one may.

        Returns the `shed` of a job that is never done, of this or another one: to be called by whoever called
        this.
        """
        with self._lock:
            if self._idle:
                self._idle -= 1
            elif not self._start():
                if self._backlog >= self.most_waiting:
                    return self._instead(job, priority, shed)
                self._backlog += 1
            self._jobs[priority].append((job, shed))
        self._ready.put(True)
        return None

    def leave_behind(self) -> None:
        """One job goes on though nobody waits for it; `catch_up` is to be called when it ends."""
        with self._lock:
            self._left_behind += 1
            if self._left_behind == self.limit:
                _log.error("%d methods go on though their calls have ended: no more threads", self.limit)
            if self._backlog and self._start():
                self._backlog -= 1

    def catch_up(self) -> None:
        with self._lock:
            self._left_behind -= 1

    def close(self) -> None:
        """Let the threads end once they have done what waits. Those left behind end with their methods."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._ready.put(False)

    def _instead(self, job: Job, priority: Priority, shed: Job) -> Job:
        """Let `job` wait in the place of one that matters less, if there is one; what sheds the other."""
        lowest = min((each for each, jobs in self._jobs.items() if jobs), default=priority)
        if lowest >= priority:
            return shed
        _, shed_other = self._jobs[lowest].pop()
        self._jobs[priority].append((job, shed))
        return shed_other

    def _next(self) -> Job:
        with self._lock:
            return next(jobs for jobs in self._jobs.values() if jobs).popleft()[0]

    def _allowed(self) -> int:
        return self.limit + min(self._left_behind, self.limit)

    def _start(self) -> bool:
        """Start one more thread, if there may be one more; whether it did."""
        if self._threads >= self._allowed():
            return False
        try:
            threading.Thread(target=self._work, name="hauberk-worker", daemon=True).start()
        except RuntimeError as error:  # the system has none to give: those there are go on
            _log.error("no thread could be started beside %d: %s", self._threads, error)
            return False
        self._threads += 1
        return True

    def _work(self) -> None:
        while self._ready.get():
            job = self._next()
            try:
                job()
            except Exception:
                _log.exception("a call could not be served")
            del job  # or it would be held until the next one comes
            with self._lock:
                if self._threads > self._allowed():
                    break
                if self._backlog:
                    self._backlog -= 1
                elif self._closed:
                    break
                else:
                    self._idle += 1
        with self._lock:
            self._threads -= 1
