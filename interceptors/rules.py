"""The rules that a contract has for its messages: the buf.validate options, read when a method is added.

protovalidate enforces them. What it does not know it mostly leaves out, so that a rule would look as if it
held: here whatever is unknown is an error. It is read as that engine knows it, in a pool of its own, since a
user's contracts may have come with another version of buf/validate/validate.proto.
Source: https://protovalidate.com/reference/
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.unknown_fields import parts, unknown_numbers

_RULES = 1159
"""The number of the three options: buf.validate.message, oneof and field."""
_LOOP = re.compile(r"\b(all|exists|exists_?one|filter|map|sortBy|transform\w*)\s*\(", re.IGNORECASE)
"""CEL's macros over lists and maps (cel-spec, "Macros"), by their names alone."""

ReadOption = Callable[[Message, str], Message | None]
"""Options and where they stand to the rules in them; None: they have none."""


def has_rules(described: Descriptor) -> bool:
    """Whether there is anything that looks like a rule in the type or inside it."""
    return any(
        _RULES in (field.number for field, _ in options.ListFields()) or _RULES in unknown_numbers(options)
        for known in types_inside(described)
        for _, _, options in _options(known)
    )


def types_inside(described: Descriptor) -> Iterable[Descriptor]:
    """The type and all that its messages can hold, each once."""
    found = [described]
    for known in found:
        for field in _fields(known):
            if field.message_type is not None and field.message_type not in found:
                found.append(field.message_type)
    return found


def rules_on(described: Descriptor) -> dict[str, Message]:
    """The rules on one message type, its fields and its oneofs, by the full name of what they are on.

    Raises PolicyError where one cannot be read, or is none that is enforced.
    """
    read = _readers()
    found = {name: read[kind](options, name) for kind, name, options in _options(described)}
    return {name: rules for name, rules in found.items() if rules is not None}


def loops(rules: Message) -> bool:
    """Whether a CEL expression in them may go over a list, or may hide in a predefined rule."""
    for part in parts(rules):
        if unknown_numbers(part) or any(_LOOP.search(text) for text in _expressions(part)):
            return True
    return False


def _options(described: Descriptor) -> Iterator[tuple[str, str, Message]]:
    """What options are of, its full name, and they."""
    yield "message", described.full_name, described.GetOptions()
    for one in described.oneofs:
        yield "oneof", f"{described.full_name}.{one.name}", one.GetOptions()
    for field in _fields(described):
        yield "field", field.full_name, field.GetOptions()


def _fields(described: Descriptor) -> Iterator[FieldDescriptor]:
    yield from described.fields
    if described.is_extendable:
        yield from described.file.pool.FindAllExtensions(described)


@cache
def _readers() -> dict[str, ReadOption]:
    """How the rules of a message, oneof or field are read from its options."""
    from protovalidate import ViolationPb  # see servant.py

    pool = DescriptorPool()
    for known in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    engine = ViolationPb.desc().file.proto
    pool.AddSerializedFile(engine.to_binary())
    file = pool.FindFileByName(engine.name)
    return {kind: _reader(file.extensions_by_name[kind]) for kind in ("message", "oneof", "field")}


def _reader(extension: Any) -> ReadOption:
    options_type = GetMessageClass(extension.containing_type)

    def read(options: Message, where: str) -> Message | None:
        ours = options_type.FromString(options.SerializeToString())
        if not ours.HasExtension(extension):
            # One of another wire type is kept as if nothing had been said.
            if extension.number in unknown_numbers(ours):
                raise PolicyError(f"rules of {where} cannot be read")
            return None
        rules: Message = ours.Extensions[extension]
        for part in parts(rules):
            # Extensions are predefined rules; protovalidate refuses those it cannot resolve.
            if not part.DESCRIPTOR.is_extendable and (unknown := unknown_numbers(part)):
                raise PolicyError(f"rules of {where} have one this build does not know: number {unknown[0]}")
        return rules

    return read


def _expressions(part: Message) -> Iterator[str]:
    for field, value in part.ListFields():
        if field.name == "expression":
            yield value
        elif field.name == "cel_expression":
            yield from value
