"""A contract as a workload announces it: descriptors read as data, and the policies found in them.

What comes from a workload never joins a descriptor pool. Only the service itself is kept, without the
messages, comments and other services that came with it.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet, ServiceDescriptorProto
from google.protobuf.message import DecodeError

from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.policy import Policy, policies_of_proto
from hauberk.services.control.errors import RequestRefused
from hauberk.services.control.snapshot import Contract

MAX_DESCRIPTORS = 1024 * 1024
"""Bytes."""
MAX_FILES, MAX_SERVICES = 2000, 2000
"""In one set of descriptors; a mebibyte could hold half a million."""
MAX_METHODS = 500
"""Of one contract; each becomes a route in each caller that may use it."""
MAX_KEPT = 128 * 1024
"""Bytes of one contract without what comes with it: its names and policies reach every caller."""

_METHOD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Announced:
    """One contract, and the descriptor it can be read from again."""

    contract: Contract
    descriptor: bytes = field(repr=False)


def read_contracts(descriptors: bytes, services: Iterable[str]) -> tuple[Announced, ...]:
    """The contracts of `services` (full names), from a serialised FileDescriptorSet.

    Raises RequestRefused: too large, unreadable, a service missing or described twice, a method whose name is
    none, without policy, or with one that this build does not know.
    """
    if len(descriptors) > MAX_DESCRIPTORS:
        raise _refused(f"descriptors have {len(descriptors)} bytes, at most {MAX_DESCRIPTORS} are read")
    try:
        files = FileDescriptorSet.FromString(descriptors)
    except DecodeError as error:
        raise _refused("descriptors are no google.protobuf.FileDescriptorSet") from error
    if len(files.file) > MAX_FILES or sum(len(file.service) for file in files.file) > MAX_SERVICES:
        raise _refused(f"descriptors hold over {MAX_FILES} files or over {MAX_SERVICES} services")
    found: dict[str, tuple[FileDescriptorProto, ServiceDescriptorProto]] = {}
    for file in files.file:
        for service in file.service:
            name = f"{file.package}.{service.name}" if file.package else service.name
            if name in found:
                raise _refused(f"descriptors describe a service twice: {name!r:.99}")
            found[name] = file, service
    return tuple(_read(name, found) for name in services)


def _read(name: str, found: dict[str, tuple[FileDescriptorProto, ServiceDescriptorProto]]) -> Announced:
    if name not in found:
        raise _refused(f"descriptors lack a contract that is offered: {name!r:.99}")
    file, service = found[name]
    if len(service.method) > MAX_METHODS:
        raise _refused(
            f"contract {name:.99} has {len(service.method)} methods, at most {MAX_METHODS} are read"
        )
    for method in service.method:
        # Bytes that are no UTF-8 stay bytes, and with one of them nothing could be published any more.
        if not isinstance(method.name, str) or not _METHOD_NAME.fullmatch(method.name):
            raise _refused(f"contract {name:.99} has a method whose name is none: {method.name!r:.99}")
    alone = FileDescriptorSet(file=[FileDescriptorProto(package=file.package, service=[service])])
    if alone.ByteSize() > MAX_KEPT:
        raise _refused(f"contract {name:.99} alone has {alone.ByteSize()} bytes, at most {MAX_KEPT} are kept")
    try:
        methods = policies_of_proto(alone)[name]
    except PolicyError as error:
        raise RequestRefused(str(error), reason="POLICY_REFUSED", metadata={"contract": name}) from error
    contract = Contract(service=name, methods=methods, version=_version(methods.values()))
    return Announced(contract, alone.SerializeToString(deterministic=True))


def _version(policies: Iterable[Policy]) -> str:
    """Hex, 16 digits: equal for contracts that demand the same of the same methods."""
    digest = hashlib.sha256()
    for policy in sorted(policies, key=lambda policy: policy.method):
        demands = policy.declared().SerializeToString(deterministic=True)
        shape = (policy.method, policy.request_streaming, policy.response_streaming, policy.idempotency.value)
        digest.update(repr((*shape, demands)).encode())
    return digest.hexdigest()[:16]


def _refused(why: str) -> RequestRefused:
    return RequestRefused(why, reason="OFFER_REFUSED")
