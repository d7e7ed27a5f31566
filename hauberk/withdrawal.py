"""Our own open calls to a server that was revoked: ended here, for it may be one that would never end them.

Where a call of the mesh went, Python is not told. But a contract is served by the one name it is bound to, so
calls are kept by contract. Calls with one reply each way are not kept: they end by their deadline.
"""

import threading
from typing import Any


class OpenStreams:
    """The open calls that stream, by contract. Blocking ones come and go in any thread."""

    def __init__(self) -> None:
        self._open: dict[str, set[Any]] = {}
        self._lock = threading.Lock()

    def enter(self, path: str, call: Any) -> None:
        """Keep `call`, to the method `path` ("/package.Service/Method"), until it is done."""
        contract = path.rpartition("/")[0].removeprefix("/")
        with self._lock:
            self._open.setdefault(contract, set()).add(call)
        call.add_done_callback(lambda _: self._leave(contract, call))

    def end(self, contract: str) -> int:
        """End the open calls of this contract, as if their channel had been closed; how many there were."""
        with self._lock:
            calls = tuple(self._open.get(contract, ()))
        for call in calls:
            call.cancel()
        return len(calls)

    def _leave(self, contract: str, call: Any) -> None:
        with self._lock:
            calls = self._open.get(contract, set())
            calls.discard(call)
            if not calls:
                self._open.pop(contract, None)
