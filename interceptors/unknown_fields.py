"""What a message holds that our copy of its type does not have: protobuf keeps it and says nothing.

Demands and rules are read with it. What is not known cannot be enforced, and must not look as if it were.
"""

from collections.abc import Iterator

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet


def parts(message: Message) -> Iterator[Message]:
    """The message and every one inside it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                yield from parts(part)


def unknown_numbers(message: Message) -> list[int]:
    """The numbers of its unknown fields; of those in messages inside it nothing is said."""
    unknown = UnknownFieldSet(message)
    return [unknown[index].field_number for index in range(len(unknown))]
