"""Messages made from the rules of their contract: one that keeps them all, and one for each, broken alone.

What a pattern or a CEL expression means is said here once more, by hand: the engine is not asked.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from hauberk.protos.third_party.buf.validate import validate_pb2

PATTERNS = {
    "^[A-Z0-9-]{1,64}$": ("A-1", ("", "a", "A 1", "A" * 65, "A\n")),
    "^[a-z0-9-]{1,64}$": ("a-1", ("", "A", "a 1", "a" * 65, "a\n")),
    "^[A-Z]{3}$": ("EUR", ("", "eur", "EU", "EURO", "EUR\n", "\u0395UR")),
    r"^[\p{L}\p{M}\p{N}\p{P}\p{S} ]*$": (
        "Zo\u00eb's 1+1",
        ("nul\0", "two\nlines", "\u2028", "\u200b", "\x1b[2J"),
    ),
}
"""By pattern: a text that matches, and some that do not."""


def _twice(message: Any) -> None:
    message.lines.add().CopyFrom(message.lines[0])


def _free(field: str) -> Callable[[Any], None]:
    return lambda message: setattr(getattr(message, field), "minor_units", 0)


def _too_dear(message: Any) -> None:
    message.price.minor_units = 10**12 + 1


EXPRESSIONS: dict[str, tuple[Callable[[Any], None], ...]] = {
    "lines.once": (_twice,),
    "product.price": (_free("price"), _too_dear),
    "authorise.amount": (_free("amount"),),
}
"""By the id of a CEL rule on a field: ways to break it, given the message of that field."""


@dataclass(frozen=True)
class Broken:
    """A message that breaks one rule of one field."""

    path: str
    rule: str
    message: Any


def valid(described: Any) -> Any:
    """A message that keeps every rule."""
    message = GetMessageClass(described)()
    for field in described.fields:
        rules = _rules(field)
        if field.is_repeated:
            getattr(message, field.name).append(_value(field, rules.repeated.items))
        elif field.message_type is None:
            setattr(message, field.name, _value(field, rules))
        elif _ours(field):
            getattr(message, field.name).CopyFrom(_value(field, rules))
    return message


def broken(described: Any) -> Iterator[Broken]:
    """One message for each rule in the type and in what is inside it."""
    for field in described.fields:
        for rule, spoil in _ways(field):
            message = valid(described)
            spoil(message)
            path = f"{field.name}[0]" if rule.startswith("items.") else field.name
            yield Broken(path, rule, message)
        if _ours(field):
            inside = f"{field.name}[0]" if field.is_repeated else field.name
            for part in broken(field.message_type):
                message = valid(described)
                held = getattr(message, field.name)
                (held[0] if field.is_repeated else held).CopyFrom(part.message)
                yield Broken(f"{inside}.{part.path}", part.rule, message)


def _ours(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name.startswith("shop.")


def _rules(field: Any) -> Any:
    return field.GetOptions().Extensions[validate_pb2.field]


def _value(field: FieldDescriptor, rules: Any) -> Any:
    if field.message_type is not None:
        return valid(field.message_type)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return PATTERNS[rules.string.pattern][0] if rules.string.pattern else "x"
    return 1


def _ways(field: FieldDescriptor) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Each rule on a field with ways to break it. Fails at a rule that nobody taught it to break."""
    rules = _rules(field)
    for kind, said in rules.ListFields():
        if kind.name == "required":
            yield "required", lambda message: message.ClearField(field.name)
        elif kind.name == "cel":
            for rule in said:
                for spoil in EXPRESSIONS[rule.id]:
                    yield rule.id, spoil
        elif kind.name == "repeated":
            yield from _of_list(field, said)
        else:
            for name, value in _scalars(said):
                yield f"{kind.name}.{name}", _sets(field.name, value)


def _of_list(field: FieldDescriptor, rules: Any) -> Iterator[tuple[str, Callable[[Any], None]]]:
    for rule, limit in rules.ListFields():
        if rule.name == "items":
            ((kind, said),) = limit.ListFields()
            for name, value in _scalars(said):
                yield f"items.{kind.name}.{name}", _sets(field.name, [value])
        else:
            count = {"min_items": limit - 1, "max_items": limit + 1}[rule.name]
            item = _value(field, rules.items)
            yield f"repeated.{rule.name}", _sets(field.name, [item] * count)


def _scalars(rules: Any) -> Iterator[tuple[str, Any]]:
    """Each rule on a single value, with values that break it."""
    for rule, limit in rules.ListFields():
        match rule.name:
            case "pattern":
                for value in PATTERNS[limit][1]:
                    yield "pattern", value
            case "min_len":
                yield "min_len", "x" * (limit - 1)
            case "max_len":
                yield "max_len", "x" * (limit + 1)
            case "gte":
                yield "gte", limit - 1
            case "lte":
                yield "lte", limit + 1
            case other:
                raise NotImplementedError(f"no way to break {rules.DESCRIPTOR.full_name}.{other}")


def _sets(name: str, value: Any) -> Callable[[Any], None]:
    def set_it(message: Message) -> None:
        if not isinstance(value, list):
            setattr(message, name, value)
            return
        message.ClearField(name)
        getattr(message, name).extend(value)

    return set_it
