"""How much one message may hold, looked at on its bytes before anything is built of them.

An empty sub-message is two bytes on the wire and 45 to 128 in memory: 4 MiB of them took 176 MB once parsed,
and 513 MB once a method had looked at each. So they are counted first, and counting ends at the bound. What
is no item is walked over, but not for ever either: a message has each of its single fields once, and every
further one counts. Source: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from hauberk.interceptors.demands import MessageBounds
from hauberk.interceptors.errors import MessageTooLarge, MessageUnreadable, TooManyItems

Check = Callable[[bytes], None]

DEEPEST = 100
"""Messages within messages that protobuf itself reads."""

_VARINT, _FIXED64, _LENGTH, _GROUP, _GROUP_END, _FIXED32 = range(6)
_SKIPPED = {_FIXED64: 8, _FIXED32: 4}
_MORE = bytes(range(0x80, 0x100))
"""The bytes of a varint that others follow."""
_UNREADABLE = "message is not one of {}"


@dataclass(slots=True)
class _Shape:
    """What is counted in messages of one type."""

    single: int = 0
    """Fields that are no items, unless they are said again."""
    parts: dict[int, "_Shape"] = field(default_factory=dict)
    """Sub-messages, in lists and alone, by field number."""
    lists: dict[int, int] = field(default_factory=dict)
    """Lists of anything else: bytes of a packed element; 0: varints; -1: never packed."""


_UNKNOWN = _Shape()


def message_check(bounds: MessageBounds, path: str, described: Descriptor | None) -> Check:
    """A check that raises MessageTooLarge, TooManyItems, or MessageUnreadable where it cannot count.

    `path` is the method's. Of messages that nothing describes, only the bytes are bounded.
    """
    shapes: dict[Descriptor, _Shape] = {}
    shape = None if described is None else _shape(described, shapes)
    packs = any(size >= 0 for known in shapes.values() for size in known.lists.values())
    # No item is smaller than that, so a shorter message cannot hold too many and nothing is counted.
    uncounted = bounds.max_items * (1 if packs else 2)

    def check_message(raw: bytes) -> None:
        size = len(raw)
        if size > bounds.max_bytes:
            raise MessageTooLarge(
                f"message of {size} bytes, {bounds.max_bytes} are accepted: {path}",
                metadata={"max_bytes": str(bounds.max_bytes)},
            )
        if shape is None or size <= uncounted:
            return
        try:
            holds_more = _holds_more(raw, shape, bounds.max_items)
        except (LookupError, ValueError) as error:
            raise MessageUnreadable(_UNREADABLE.format(path)) from error
        if holds_more:
            raise TooManyItems(
                f"message of over {bounds.max_items} items, no more are accepted: {path}",
                metadata={"max_items": str(bounds.max_items)},
            )

    return check_message


def _shape(described: Descriptor, shapes: dict[Descriptor, _Shape]) -> _Shape:
    """The shape of a type; `shapes` has those of all types inside it, which may lead back to it."""
    if described in shapes:
        return shapes[described]
    shape = shapes[described] = _Shape()
    for known in _fields(described):
        if known.message_type is not None:
            shape.parts[known.number] = _shape(known.message_type, shapes)
        elif known.is_repeated:
            shape.lists[known.number] = _PACKED.get(known.type, 0)
        else:
            shape.single += 1
    return shape


def _fields(described: Descriptor) -> Iterable[FieldDescriptor]:
    yield from described.fields
    if described.is_extendable:
        yield from described.file.pool.FindAllExtensions(described)


_PACKED = {
    FieldDescriptor.TYPE_STRING: -1,
    FieldDescriptor.TYPE_BYTES: -1,
    FieldDescriptor.TYPE_DOUBLE: 8,
    FieldDescriptor.TYPE_FIXED64: 8,
    FieldDescriptor.TYPE_SFIXED64: 8,
    FieldDescriptor.TYPE_FLOAT: 4,
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
}


def _holds_more(raw: bytes, shape: _Shape, most: int) -> bool:
    """Whether there are over `most` items. Raises LookupError or ValueError if it cannot be told.

    What is no field of the type, or not of its wire type, protobuf keeps as it came: it counts as single.
    """
    items, position, end, single, group = 0, 0, len(raw), shape.single, 0
    outer: list[tuple[_Shape, int, int, int]] = []
    while True:
        if position >= end:
            if group or position > end:
                raise ValueError("ends before it should")
            if not outer:
                return False
            shape, end, single, group = outer.pop()
            continue
        tag, position = raw[position], position + 1  # most are of one byte, and a call takes longer than that
        if tag > 0x7F:
            tag, position = _varint(raw, position - 1, end)
        number, kind = tag >> 3, tag & 7
        if kind == _GROUP_END:
            if number != group:
                raise ValueError("end of no group")
            shape, end, single, group = outer.pop()
            continue
        size = 0
        if kind == _LENGTH:
            size, position = raw[position], position + 1
            if size > 0x7F:
                size, position = _varint(raw, position - 1, end)
            if position + size > end:
                raise ValueError("longer than what it is in")
        if kind == _GROUP or (kind == _LENGTH and number in shape.parts):
            items += 1
            if len(outer) >= DEEPEST:
                raise ValueError("too deep")
            outer.append((shape, end, single, group))
            shape, group = shape.parts.get(number, _UNKNOWN), number if kind == _GROUP else 0
            end, single = end if group else position + size, shape.single
        else:
            if kind == _VARINT:
                _, position = _varint(raw, position, end)
            elif kind != _LENGTH:
                size = _SKIPPED[kind]
            if number in shape.lists:
                items += _elements(raw[position : position + size], kind, shape.lists[number])
            elif single > 0:
                single -= 1
            else:
                items += 1
            position += size
        if items > most:
            return True


def _elements(packed: bytes, kind: int, size: int) -> int:
    if kind != _LENGTH or size < 0:
        return 1
    return len(packed) // size if size else len(packed.translate(None, _MORE))


def _varint(raw: bytes, position: int, end: int) -> tuple[int, int]:
    """The number there, of at most 64 bits, and where it ends."""
    value = shift = 0
    while position < end and shift < 70:
        octet = raw[position]
        position += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, position
        shift += 7
    raise ValueError("no varint")
