"""Messages with rules of their own, compiled by stock protoc from the text of a test."""

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from grpc.aio import AioRpcError
from grpc_tools import protoc  # type: ignore[import-untyped]

from hauberk.interceptors.demands import MessageBounds
from hauberk.interceptors.errors import MessageInvalid
from hauberk.interceptors.rules import has_rules
from hauberk.interceptors.validation import Check, rules_check

PROTOS = Path(__file__).resolve().parents[2] / "protos"
GOOGLE = Path(protoc.__file__).parent / "_proto"

PATH = "/lab.v1.Lab/Try"

_numbers = count()

Types = Callable[[str], Any]


def messages(
    text: str,
    change: Callable[[FileDescriptorProto], None] = lambda file: None,
    *,
    syntax: str = "proto3",
) -> Types:
    """The messages of a contract, by name. `change` is made to each file before it is read.

    Each lot is of a package of its own: the engine knows a name once.
    """
    package = f"ruled{next(_numbers)}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{package}.proto").write_text(
            f'syntax = "{syntax}"; package {package}; import "buf/validate/validate.proto";\n{text}'
        )
        files = _compiled(folder, f"{package}.proto")
    pool = DescriptorPool()
    for file in files.file:
        change(file)
        pool.AddSerializedFile(file.SerializeToString())
    return lambda name: GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))


def check_of(described: Any, *, max_items: int = 10_000) -> Check:
    assert has_rules(described.DESCRIPTOR)
    return rules_check(MessageBounds(max_items=max_items), PATH, described.DESCRIPTOR)


def told(check: Check, message: Any) -> dict[str, str]:
    """What is refused of a message, by field."""
    with pytest.raises(MessageInvalid) as caught:
        check(message)
    (bad,) = caught.value.details
    return {each.field: each.description for each in bad.field_violations}  # type: ignore[attr-defined]


def violations(error: AioRpcError) -> dict[str, str]:
    """What a refusal says of each field, by path."""
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    bad = BadRequest()
    assert Status.FromString(details).details[1].Unpack(bad)
    return {violation.field: violation.description for violation in bad.field_violations}


def _compiled(folder: str, name: str) -> FileDescriptorSet:
    out = Path(folder) / "set.binpb"
    include = [f"-I{each}" for each in (folder, PROTOS, PROTOS / "third_party", GOOGLE)]
    done = protoc.main(["protoc", *include, "--include_imports", f"--descriptor_set_out={out}", name])
    assert done == 0
    return FileDescriptorSet.FromString(out.read_bytes())
