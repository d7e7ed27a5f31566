"""Text without the secrets that can be told from it, for our own log: what an exception says may hold any.

Taken out: private keys in PEM, the user part of a URL, JSON web tokens, what follows `Bearer` and its like,
the value beside a name that says password, secret, token, key, cookie and such (`name=value`, `"name":
"value"`, `name is value`; `name value` where the value is quoted or holds a digit), the parameters that
SQLAlchemy appends, the value of environment variables with such names, and whatever the caller of `scrubbed`
knows to be secret. A bare password in a sentence that does not say so cannot be told from a word.

Every pattern takes time linear in the text: it may be an attacker's.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from google.protobuf.message import Message

HIDDEN = "[hidden]"
LONGEST = 2000
"""Characters of a text that are shown."""
_LONGEST_NAME = 300
_LOOKED_AT = 8000
_MARGIN = 512
"""Of a text that goes on beyond what is looked at: a secret there may be cut in two, and not be seen."""
_SHORTEST = 4
"""Characters of a value that is taken out wherever it stands: a shorter one is part of other words."""
_DEEPEST = 16
_FOLDERS = frozenset({"PWD", "OLDPWD"})

_NAME = (
    r"passw(?:or)?d|passwort|passphrase|passwd|\bpwd|secret|token|credential|authorization|cookie|signature"
    r"|(?:api|access|private|signing|encryption)[_-]?key|session[_-]?id|\bcvv|\bcvc|\botp\b|\bpin\b"
)
_QUOTED = r'"(?:[^"\\]|\\.)*+"?|' + r"'(?:[^'\\]|\\.)*+'?"
_NAMES = re.compile(_NAME, re.IGNORECASE)
_KEY = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}-----|\Z)", re.DOTALL)
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (_KEY, HIDDEN),
    (re.compile(r"://[^\s'\"<>]{1,1000}@"), f"://{HIDDEN}@"),
    (re.compile(r"\[parameters: .*\Z", re.DOTALL), f"[parameters: {HIDDEN}]"),
    (re.compile(r"\bhbk1\.[\w-]+"), HIDDEN),  # our own join tokens
    (re.compile(r"\beyJ[\w-]{4,}\.[\w.=-]+"), HIDDEN),
    (re.compile(r"\b(bearer|dpop|basic|negotiate)\s+[\w.~+/=:-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (
        re.compile(
            rf"((?:{_NAME})[\w.-]{{0,40}}+['\"]?(?:\s{{0,9}}(?:=>?|:|\b(?:is|was)\b))+\s{{0,9}})"
            rf"(?:(?:bearer|basic|dpop|negotiate)\s{{1,9}})?(?:{_QUOTED}|[^\s,;&'\"]+)",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(
            rf"((?:{_NAME})[\w.-]{{0,40}}+\s{{1,9}})(?:{_QUOTED}|(?=[^\s\d]{{0,200}}\d)[^\s,;&'\"]+)",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
)


def scrubbed(text: str, known: Iterable[str] = ()) -> str:
    """`text` in one printable line of at most LONGEST characters, without secrets; `known` are some."""
    shown = _without_secrets(text, {*known, *_of_environment(os.environ)})
    return "".join(map(_printable, shown[:LONGEST])) + (_more(text) if len(shown) > LONGEST else "")


def printable(text: str) -> str:
    """`text`, a name that is part of a program, in one line that is not too long."""
    shown = text[-_LONGEST_NAME:]
    return shown if shown.isprintable() else "".join(map(_printable, shown))


def scrubbed_lines(text: str) -> str:
    """`text` without secrets, in the lines it has: for what our log is about to print."""
    known = set(_of_environment(os.environ))
    return "\n".join(_without_secrets(line, known) for line in _KEY.sub(HIDDEN, text).split("\n"))


def redacted(message: Message) -> Message:
    """A copy of `message` that may be printed: fields marked `debug_redact` say so, or nothing."""
    copy = type(message)()
    copy.CopyFrom(message)
    _redact(copy, 0)
    return copy


def secrets_in(metadata: Iterable[tuple[str, str | bytes]]) -> Iterator[str]:
    """What a caller proves itself with: the values of headers whose names say so."""
    for key, value in metadata:
        if _NAMES.search(key):
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            yield text
            yield text.rpartition(" ")[2]


def redacted_values(message: Message, depth: int = 0) -> Iterator[str]:
    """The values in `message` of all fields that its contract marks `debug_redact`, as text."""
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact:
            yield from _texts(value, depth)
        elif field.message_type is not None and depth < _DEEPEST:
            for each in _messages(value):
                yield from redacted_values(each, depth + 1)


def _redact(message: Message, depth: int) -> None:
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact or depth == _DEEPEST:
            message.ClearField(field.name)
            if isinstance(value, str):
                setattr(message, field.name, HIDDEN)
        elif field.message_type is not None:
            for each in _messages(value):
                _redact(each, depth + 1)


def _without_secrets(text: str, known: set[str]) -> str:
    """What is looked at of `text`, and a word on the rest."""
    looked_at = text[:_LOOKED_AT]
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            looked_at = looked_at.replace(secret, HIDDEN)
    for pattern, instead in _RULES:
        looked_at = pattern.sub(instead, looked_at)
    return looked_at if len(text) <= _LOOKED_AT else looked_at[:-_MARGIN] + _more(text)


def _texts(value: Any, depth: int) -> Iterator[str]:
    """Everything in a redacted value, however it is nested."""
    if isinstance(value, Message):
        if depth < _DEEPEST:
            for _, inner in value.ListFields():
                yield from _texts(inner, depth + 1)
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace")
        yield repr(value)[2:-1]
    elif isinstance(value, str | int | float):
        yield str(value)
    elif isinstance(value, Mapping):
        for key in value:
            yield from (*_texts(key, depth), *_texts(value[key], depth))
    else:
        for each in value:
            yield from _texts(each, depth)


def _messages(value: Any) -> Iterator[Message]:
    if isinstance(value, Message):
        yield value
    elif isinstance(value, Mapping):
        yield from (value[key] for key in value if isinstance(value[key], Message))
    else:
        yield from (each for each in value if isinstance(each, Message))


def _of_environment(environment: Mapping[str, str]) -> Iterator[str]:
    """What is secret of it, by the names of variables and the shape of URLs."""
    for name, value in environment.items():
        if _NAMES.search(name) and name not in _FOLDERS and not name.endswith(("_FILE", "_FD", "_PATH")):
            yield value
        if (start := value.find("://")) >= 0 and (end := value.rfind("@")) > start:
            _, colon, password = value[start + 3 : end].partition(":")
            if colon:
                yield password


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _more(text: str) -> str:
    return f"... ({len(text)} characters)"
