"""The rules of a contract, read when a method is added: enforceable as written, or no server starts."""

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.validation import LOOP_ITEMS
from tests.interceptors.ruled import check_of, messages, told
from tests.interceptors.stage import SERVICE, Shape, Stage, echo, policy


@pytest.mark.parametrize(
    ("field", "why"),
    [
        (
            "int32 bad = 1 [(buf.validate.field).string.min_len = 3];",
            'expected rule "buf.validate.FieldRules.int32"',
        ),
        ('string bad = 1 [(buf.validate.field).string.pattern = "(["];', "missing ]"),
        (
            'string bad = 1 [(buf.validate.field).cel = { id: "b" message: "m" expression: "this +" }];',
            "Syntax error",
        ),
        (
            'string bad = 1 [(buf.validate.field).cel = { id: "b" message: "m" expression: "this.x" }];',
            "SELECT",
        ),
        (
            'int32 bad = 1 [(buf.validate.field).cel = { id: "b" message: "m" expression: "1 / this > 0" }];',
            "divide",
        ),
        (
            'int32 bad = 1 [(buf.validate.field).cel = { id: "b" message: "m" expression: "other == 1" }];',
            "other",
        ),
        (
            'int32 bad = 1 [(buf.validate.field).cel = { id: "b" message: "m" expression: "this + 1" }];',
            "unexpected type",
        ),
    ],
)
@pytest.mark.parametrize(
    "holder", ["Part part = 1;", "repeated Part part = 1;", "map<string, Part> part = 1;"]
)
def test_rule_that_cannot_be_enforced_keeps_the_server_from_starting(
    holder: str, field: str, why: str
) -> None:
    """Wherever the message stands that has it, and whether or not one ever comes."""
    kind = messages(
        f"""message Ask {{ {holder}
          message Part {{
            string good = 2 [(buf.validate.field).string.min_len = 3];
            {field}
            string fine = 3 [(buf.validate.field).required = true];
          }} }}"""
    )("Ask")
    with pytest.raises(
        PolicyError, match=r"rule of message \w+\.Ask\.Part, field bad cannot be enforced"
    ) as caught:
        check_of(kind)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_server_with_such_a_rule_serves_nothing(stage: Stage) -> None:
    kind = messages('message Ask { string s = 1 [(buf.validate.field).string.pattern = "(["]; }')("Ask")
    shape, guard = Shape.UNARY_UNARY, stage.new_guard()
    served: Any = grpc.unary_unary_rpc_method_handler(echo(shape), kind.FromString)
    with pytest.raises(PolicyError, match="field s cannot be enforced"):
        guard.add(SERVICE, {"Try": served}, {"Try": policy("Try", shape, "*")})
    assert not guard.edges


def test_message_rule_that_cannot_be_enforced_is_named_by_its_message() -> None:
    kind = messages(
        """message Ask {
        option (buf.validate.message).cel = { id: "b" message: "m" expression: "this.none == 1" };
        string s = 1 [(buf.validate.field).string.min_len = 0]; }"""
    )("Ask")
    with pytest.raises(PolicyError, match=r"rule of message \w+\.Ask cannot be enforced: .*none"):
        check_of(kind)


UNKNOWN = bytes([0xA0, 0x1F, 0x01])
"""Field 500: a varint."""


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (bytes([0xBA, 0x48, len(UNKNOWN)]) + UNKNOWN, "one this build does not know: number 500"),
        (bytes([0xB8, 0x48, 1]), "cannot be read"),
    ],
    ids=["unknown rule", "another wire type"],
)
def test_rule_that_nobody_knows_keeps_the_server_from_starting(raw: bytes, why: str) -> None:
    """The engine would leave it out, as if it had not been written."""

    def spoil(file: FileDescriptorProto) -> None:
        if file.package.startswith("ruled"):
            file.dependency.remove("buf/validate/validate.proto")
            file.message_type[0].field[0].options.MergeFromString(raw)

    kind = messages("message Ask { string s = 1; }", spoil)("Ask")
    with pytest.raises(PolicyError, match=why):
        check_of(kind)


def test_unknown_rule_within_rules_is_found() -> None:
    def spoil(file: FileDescriptorProto) -> None:
        if file.package.startswith("ruled"):
            items = bytes([0x22, len(UNKNOWN)]) + UNKNOWN
            repeated = bytes([0x92, 0x01, len(items)]) + items
            file.message_type[0].field[0].options.MergeFromString(
                bytes([0xBA, 0x48, len(repeated)]) + repeated
            )

    kind = messages("message Ask { repeated string s = 1; }", spoil)("Ask")
    with pytest.raises(PolicyError, match="number 500"):
        check_of(kind)


def test_contract_may_bring_another_version_of_the_options() -> None:
    def newer(file: FileDescriptorProto) -> None:
        if file.package == "buf.validate":
            file.message_type.add(name="Newer")
            rules = next(each for each in file.message_type if each.name == "FieldRules")
            rules.field.add(name="newer", number=500, type=8, label=1)

    text = "message Ask { string s = 1 [(buf.validate.field).string.min_len = 3]; }"
    check = check_of(messages(text, newer)("Ask"))
    assert check is not None
    assert list(told(check, messages(text, newer)("Ask")())) == ["s"]


FIELD, MESSAGE = "(buf.validate.field)", "(buf.validate.message)"


def cel(expression: str) -> str:
    return f'{{ id: "l" message: "m" expression: "{expression}" }}'


@pytest.mark.parametrize(
    "rule",
    [
        f"repeated int32 l = 1 [{FIELD}.cel = {cel('this.all(x, x in this)')}];",
        f'repeated int32 l = 1 [{FIELD}.cel_expression = "this.exists_one(x, x == 1) || true"];',
        f"repeated Ask l = 1 [{FIELD}.repeated.items.cel = {cel('this.l.map(x, 1).size() >= 0')}];",
        f"repeated int32 l = 1; option {MESSAGE}.cel = {cel('this.l.filter (x, x > 1) == []')};",
    ],
    ids=["field", "expression alone", "items", "message"],
)
def test_rule_over_lists_needs_a_bound_on_them(rule: str) -> None:
    held_to_a_bound(messages(f"message Ask {{ {rule} }}")("Ask"))


def test_predefined_rule_is_taken_for_one_over_lists() -> None:
    says = cel("!rule || this.all(x, x in this)")
    own = f"optional bool mine = 1161 [(buf.validate.predefined).cel = {says}];"
    text = f"message Ask {{ repeated int32 l = 1 [{FIELD}.repeated.(mine) = true]; }}"
    held_to_a_bound(messages(f"{text} extend buf.validate.RepeatedRules {{ {own} }}", syntax="proto2")("Ask"))


def held_to_a_bound(kind: Any) -> None:
    with pytest.raises(PolicyError, match=r"say message.max_items in the method's policy, at most 1000"):
        check_of(kind, max_items=LOOP_ITEMS + 1)
    check_of(kind, max_items=LOOP_ITEMS)(kind())
