"""What our log says of an exception: its kind and text, where it was raised, and what led to it.

The text goes through `scrubbing`, and so do notes. Of the places there is file, line and function, but never
the source: a literal there may be the very secret. Whatever the exception is (its `__str__` may raise, it may
be its own cause, hold a thousand frames or a million other exceptions), what is said is bounded, and no line
of it but the first begins at the margin: it cannot pose as a line of the log.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from types import FrameType, TracebackType

from google.protobuf.message import Message

from hauberk.interceptors.scrubbing import printable, redacted_values, scrubbed

_FIRST, _LAST = 4, 12
"""Frames that are told of each exception, outermost and innermost."""
_MOST = 16
"""Exceptions that are told: causes, contexts, members of groups."""
_LOOKED_THROUGH = 1000
"""Frames, and redacted values, that are looked through."""


def told(error: BaseException, known: Iterable[str] = ()) -> str:
    """`error` and what led to it, in lines; `known` are secrets that its text may hold. Never raises."""
    try:
        return "\n".join(_told(error, tuple(known)))
    except Exception as odd:
        return f"{_kind(error)} (nothing more can be told: {_kind(odd)})"


def _told(error: BaseException, known: tuple[str, ...]) -> Iterator[str]:
    found, more = _found(error)
    frames = {id(one): list(_frames(one.__traceback__)) for _, one in found}
    redacted = (value for each in frames.values() for value in _redacted(each))
    secrets = {*known, *islice(redacted, _LOOKED_THROUGH)}  # one may tell what another's frames hold
    for how, one in found:
        yield f"{how}{_kind(one)}{_said(one, secrets)}"
        for note in getattr(one, "__notes__", ())[:3]:
            yield f"    note: {scrubbed(str(note), secrets)}"
        yield from _places(frames[id(one)])
    if more:
        yield "  and more"


def _found(error: BaseException) -> tuple[list[tuple[str, BaseException]], bool]:
    """What is told, each with how it came to be; and whether there is more."""
    found: list[tuple[str, BaseException]] = []
    waiting: list[tuple[str, BaseException]] = [("", error)]
    seen: set[int] = set()
    while waiting:
        how, one = waiting.pop()
        if id(one) in seen:
            continue
        if len(found) == _MOST:
            return found, True
        seen.add(id(one))
        found.append((how, one))
        if isinstance(one, BaseExceptionGroup):
            waiting += [("  in it: ", each) for each in reversed(one.exceptions[: _MOST + 1])]
        if one.__cause__ is not None:
            waiting.append(("  caused by ", one.__cause__))
        elif one.__context__ is not None and not one.__suppress_context__:
            waiting.append(("  while handling ", one.__context__))
    return found, False


def _kind(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return printable(name)


def _said(error: BaseException, secrets: Iterable[str]) -> str:
    try:
        text = str(error)
    except Exception as odd:
        return f" (its text cannot be had: {_kind(odd)})"
    return f": {scrubbed(text, secrets)}" if text else ""


def _frames(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    """Each frame and the line in it, outermost first."""
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _places(frames: list[tuple[FrameType, int]]) -> Iterator[str]:
    left_out = len(frames) - _FIRST - _LAST
    for number, (frame, line) in enumerate(frames):
        if number == _FIRST and left_out > 0:
            yield f"    ... {left_out} more ..."
        if number < _FIRST or number >= len(frames) - _LAST:
            yield f"    {printable(frame.f_code.co_filename)}:{line} in {printable(frame.f_code.co_qualname)}"


def _redacted(frames: list[tuple[FrameType, int]]) -> Iterator[str]:
    """What the messages at hand in these frames hold in fields that are never to be printed."""
    for frame, _ in frames[-_LAST:]:
        if frame.f_globals.get("__name__", "").startswith("hauberk.interceptors."):
            continue  # still running: its locals would be kept, and the caller's headers with them
        for value in list(frame.f_locals.values()):
            if isinstance(value, Message):
                yield from redacted_values(value)
