"""The log of a process of the mesh, on standard error: `run` sets it up, and so does the control plane.

Exceptions are told as `interceptors.failures` tells them, wherever they were logged and also where nobody
caught them: their kind, where they were raised, and their text without secrets. Messages lose the secrets too
that can be told from text, and protobuf messages among their arguments the fields marked `debug_redact`.
"""

import logging
import sys
import threading
from types import TracebackType
from typing import Any

from google.protobuf.message import Message

from hauberk.interceptors.failures import told
from hauberk.interceptors.scrubbing import redacted, scrubbed_lines

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

_log = logging.getLogger("hauberk")


def set_up(level: int = logging.INFO, line: str = FORMAT) -> None:
    """Log to standard error, unless the program has set up logging; and tell there what nobody caught."""
    handler = logging.StreamHandler()
    handler.setFormatter(Discreet(line))
    logging.basicConfig(level=level, handlers=[handler])  # does nothing where there are handlers
    sys.excepthook = _uncaught
    threading.excepthook = lambda thread: _uncaught(thread.exc_type, thread.exc_value, thread.exc_traceback)
    sys.unraisablehook = lambda one: _uncaught(one.exc_type, one.exc_value, one.exc_traceback)


class Discreet(logging.Formatter):
    """Formats records without the secrets they hold."""

    def format(self, record: logging.LogRecord) -> str:
        if record.args and _holds_message(record.args):
            record = logging.makeLogRecord(record.__dict__ | {"args": _redacted(record.args)})
        return scrubbed_lines(super().format(record))

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - logging's name
        return "" if ei[1] is None else told(ei[1])


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
    else:
        _log.critical("uncaught: %s", kind.__name__ if error is None else told(error))


def _holds_message(args: Any) -> bool:
    return any(isinstance(each, Message) for each in (args.values() if isinstance(args, dict) else args))


def _redacted(args: Any) -> Any:
    if isinstance(args, dict):
        return {name: redacted(each) if isinstance(each, Message) else each for name, each in args.items()}
    return tuple(redacted(each) if isinstance(each, Message) else each for each in args)
