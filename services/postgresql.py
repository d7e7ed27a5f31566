"""PostgreSQL's driver, made to give up: a server that is gone or hangs costs a caller a moment, not its time.
And the limits that the server keeps for us: what a frozen replica has locked is its twin's a moment later.

A server that hangs keeps its connections, takes new ones and answers nothing. Neither its own limits nor
TCP's end a wait for it (its kernel acknowledges every byte), so the wait ends here. Once one has ended so,
nobody else begins one: a thread of ours asks whether the server is back.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import psycopg

CONNECT_S = 2
"""How long a connection may take to open; libpq takes no less."""
LOCK_WAIT_S = 0.75
"""How long a statement waits for another's lock before it fails."""
STATEMENT_S = 0.9
"""How long it may take in all, several such waits included: less than we wait for an answer, or a server that
waits for a lock would be taken for one that hangs.
"""
IDLE_S = 0.5
"""How long a transaction may lie between two statements before the server ends it, and its connection.

Who is frozen, or cut off, would keep its locks otherwise until it came back. Shorter than the wait for a
lock: who waits for one of those gets it. A living process is back with its next statement in milliseconds.
"""
ANSWER_S = 1.0
"""How long one exchange with the server may take: longer than any statement."""
AGAIN_S = 0.25
"""Between two questions whether it is back."""

T = TypeVar("T")


def server_limits() -> str:
    """What a connection asks of the server as it opens, as libpq's `options`."""
    limits = {
        "lock_timeout": LOCK_WAIT_S,
        "statement_timeout": STATEMENT_S,
        "idle_in_transaction_session_timeout": IDLE_S,
    }
    return " ".join(f"-c {name}={1000 * seconds:.0f}ms" for name, seconds in limits.items())


class Connection(psycopg.Connection[Any]):
    """A connection that ends when the server leaves it without an answer for `answer_s` seconds.

    None waits for ever, for what may take its time: an upgrade.
    """

    answer_s: float | None = ANSWER_S
    on_silence: Callable[[psycopg.Error], None] = staticmethod(lambda _: None)

    def wait(self, gen: Generator[Any, Any, T], *arguments: Any, **options: Any) -> T:
        """Every exchange with the server comes through here."""
        if self.answer_s is None:
            return super().wait(gen, *arguments, **options)
        return super().wait(self._within(gen, self.answer_s), *arguments, **options)

    def _within(self, exchange: Generator[Any, Any, T], seconds: float) -> Generator[Any, Any, T]:
        """`exchange`, which the driver resumes when the socket is ready, or every tenth of a second."""
        ends_at = time.monotonic() + seconds
        try:
            wanted = next(exchange)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > ends_at:
                    self._give_up(seconds)
                wanted = exchange.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result

    def _give_up(self, seconds: float) -> None:
        self.close()
        error = psycopg.OperationalError(f"no answer from the server within {seconds:g} s")
        self.on_silence(error)
        raise error


class Server:
    """One server as this process knows it. Used by many threads; `close` when done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dials = ThreadPoolExecutor(8, thread_name_prefix="postgresql")
        self._silence: Future[psycopg.Error] = Future()
        """Done while the server is known not to answer: with what told us."""
        self._closed = threading.Event()

    def connect(self, *arguments: Any, **options: Any) -> Connection:
        """Raises OperationalError; at once when the server is known, or found meanwhile, not to answer."""
        silence = self._silence
        if not silence.done():
            dial = self._dials.submit(Connection.connect, *arguments, **options)
            dial.add_done_callback(lambda dialled: self._judge(dialled, silence, arguments, options))
            either: list[Future[Any]] = [dial, silence]
            wait(either, return_when=FIRST_COMPLETED)
            if not silence.done():
                return dial.result()
        said = str(silence.result()).partition("\n")[0]
        raise psycopg.OperationalError(f"it does not answer: {said}")

    def close(self) -> None:
        """Ask no more whether it is back."""
        self._closed.set()

    def _judge(
        self,
        dialled: "Future[Connection]",
        silence: "Future[psycopg.Error]",
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> None:
        def fall_silent(error: psycopg.Error) -> None:
            self._look_after(error, arguments, options)

        error = dialled.exception()
        if isinstance(error, psycopg.errors.ConnectionTimeout):
            fall_silent(error)
        elif error is None and silence.done():
            dialled.result().close()  # nobody waits for it any more
        elif error is None:
            dialled.result().on_silence = fall_silent

    def _look_after(self, error: psycopg.Error, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """It has not answered: refuse everybody, and have a thread ask until it does."""
        with self._lock:
            if self._silence.done() or self._closed.is_set():
                return
            self._silence.set_result(error)
        threading.Thread(target=self._ask, args=(arguments, options), name="postgresql", daemon=True).start()

    def _ask(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        while not self._closed.wait(AGAIN_S):
            with contextlib.suppress(psycopg.Error, OSError):  # we may have no descriptor left to ask with
                Connection.connect(*arguments, **options).close()
                self._silence = Future()
                return
