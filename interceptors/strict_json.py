"""JSON of which there is one reading only, for what tokens and key sets hold.

Refused besides what is no JSON: a name that stands twice in one object (RFC 8259 section 4 lets each reader
choose), NaN and infinities, anything but UTF-8, half of a surrogate pair, and what is nested too deeply.
"""

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

DEEPEST = 8
"""Containers in one another."""


def parse_object(raw: bytes) -> Mapping[str, Any]:
    """The object that `raw` spells, read-only all through: mappings, tuples and plain values.

    Raises ValueError.
    """
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return _frozen_object(value, DEEPEST)


def _frozen_object(value: dict[str, Any], depth: int) -> Mapping[str, Any]:
    return MappingProxyType({_text(key): _frozen(below, depth - 1) for key, below in value.items()})


def _frozen(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _text(value)
    if not isinstance(value, dict | list):
        return value
    if depth <= 0:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        return _frozen_object(value, depth)
    return tuple(_frozen(below, depth - 1) for below in value)


def _text(value: str) -> str:
    value.encode("utf-8")  # half of a surrogate pair, written as an escape, raises a ValueError here
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
