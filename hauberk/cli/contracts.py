"""The contracts of a mesh as they lie on disk: what each method demands, and the line it is written on.

Read by protoc, for it alone knows lines: the one that grpcio-tools brings, which whoever generates stubs has,
or else the one on the path. Only files that declare a service of the mesh are read. Nothing joins a
descriptor pool.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import (
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool

import hauberk
from hauberk.cli.errors import CommandFailed
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.policy import Policy, policy_of
from hauberk.protos.hauberk.policy.v1 import policy_pb2

PROTOC_S = 60.0
_WITH = ("--include_source_info", "--include_imports")
_SERVICE, _METHOD, _OPTIONS = 6, 2, 4
"""Field numbers that a path in SourceCodeInfo goes by (descriptor.proto)."""
_POLICY = policy_pb2.DESCRIPTOR.extensions_by_name["policy"].number
_INSIDE = {"bound": "token", "max": "deadline"}
"""What is part of which field of a policy."""
_PACKAGE = re.compile(r"^\s*package\s+([\w.]+)\s*;", re.MULTILINE)
_DECLARES = re.compile(r"^\s*service\s+(\w+)\s*\{", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, as people and editors write it; without a line, where else something stands."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method of a contract on disk."""

    path: str
    policy: Policy | None
    """None: it has none that can be enforced; `complaint` says why."""
    complaint: str
    declared: Place
    """Where the rpc is."""
    option: Place | None
    """Where its policy begins: its own, or else its service's defaults."""
    lines: Sequence[tuple[int, str]] = field(default=(), repr=False)
    """Of that option, each with its number."""
    overridden: Mapping[str, Place] = field(default_factory=dict)
    """Where operators say what this contract says otherwise, by field."""

    def place(self, demand: str = "") -> Place:
        """The line of one field of its policy; where nothing is said of it, of the whole."""
        if (elsewhere := self.overridden.get(_INSIDE.get(demand, demand))) is not None:
            return elsewhere
        if self.option is None:
            return self.declared
        word = re.compile(rf"\b{re.escape(demand)}\s*[:{{]") if demand else None
        for number, text in self.lines if word else ():
            if word and word.search(text.partition("//")[0]):
                return Place(self.option.file, number)
        return self.option


@dataclass(frozen=True, slots=True)
class Contracts:
    """The services found, by full name, each with its methods by path."""

    services: dict[str, dict[str, Method]]
    files: FileDescriptorSet = field(default_factory=FileDescriptorSet, repr=False)
    """Those that declare them, and all that these import."""

    def request(self, path: str) -> Descriptor:
        """The type of the messages that callers of this method send, which must be one of `methods`."""
        pool = DescriptorPool()
        for file in self.files.file:
            pool.AddSerializedFile(file.SerializeToString())
        service, _, name = path[1:].partition("/")
        return pool.FindServiceByName(service).methods_by_name[name].input_type

    @property
    def methods(self) -> dict[str, Method]:
        return {path: method for methods in self.services.values() for path, method in methods.items()}

    @classmethod
    def read(cls, folders: Iterable[Path], wanted: Iterable[str]) -> "Contracts":
        """Those of `wanted` (full names) that are declared under `folders`, which protoc imports from.

        Raises CommandFailed: a folder that is not there, no protoc, or what protoc says.
        """
        folders, wanted = list(folders), frozenset(wanted)
        found: dict[str, dict[str, Method]] = {}
        for folder in folders:
            if not folder.is_dir():
                raise CommandFailed(f"no folder of contracts: {folder}", "name it: --protos FOLDER")
        texts: dict[str, Path] = {}
        for folder in folders:
            for file in _declaring(folder, wanted):
                texts.setdefault(file.relative_to(folder).as_posix(), file)  # of two, protoc takes the first
        if not texts:
            return cls({})
        files = _described(folders, texts)
        for described in files.file:
            if described.name not in texts:
                continue  # it is imported
            file = texts[described.name]
            lines = file.read_text().splitlines()
            for number, service in enumerate(described.service):
                name = f"{described.package}.{service.name}" if described.package else service.name
                if name in wanted:
                    reading = _Reading(_shown(file), lines, described, number)
                    found[name] = {method.path: method for method in reading.methods(name, service)}
        return cls(found, files)


class _Reading:
    """One service of one file, with the lines of what it says."""

    def __init__(self, file: str, lines: Sequence[str], described: FileDescriptorProto, number: int) -> None:
        self._file = file
        self._text = lines
        self._number = number
        self._spans = {tuple(each.path): each.span for each in described.source_code_info.location}

    def methods(self, service: str, declared: ServiceDescriptorProto) -> Iterable[Method]:
        for number, method in enumerate(declared.method):
            yield self._method(service, declared, method, (_SERVICE, self._number, _METHOD, number))

    def _method(
        self,
        service: str,
        declared: ServiceDescriptorProto,
        method: MethodDescriptorProto,
        at: tuple[int, ...],
    ) -> Method:
        policy, complaint = None, ""
        try:
            policy = policy_of(service, declared, method)
        except PolicyError as error:
            complaint = str(error)
        option = (*at, _OPTIONS, _POLICY)
        if option not in self._spans:
            option = (_SERVICE, self._number, 3, _POLICY)  # ServiceDescriptorProto.options
        lines = self._lines(option)
        return Method(
            path=f"/{service}/{method.name}",
            policy=policy,
            complaint=complaint,
            declared=Place(self._file, self._lines(at)[0][0]),
            option=Place(self._file, lines[0][0]) if lines else None,
            lines=lines,
        )

    def _lines(self, path: tuple[int, ...]) -> Sequence[tuple[int, str]]:
        """Those that what is at `path` takes, numbered from 1."""
        span = self._spans.get(path)
        if span is None:
            return ()
        last = span[2] if len(span) == 4 else span[0]
        return tuple((number + 1, self._text[number]) for number in range(span[0], last + 1))


def _declaring(folder: Path, wanted: frozenset[str]) -> list[Path]:
    """The files that look as if they declared one of `wanted`."""
    found = []
    for file in sorted(folder.rglob("*.proto")):
        text = file.read_text(errors="replace")
        package = _PACKAGE.search(text)
        before = f"{package[1]}." if package else ""
        if any(f"{before}{name}" in wanted for name in _DECLARES.findall(text)):
            found.append(file)
    return found


def _described(folders: Iterable[Path], names: Iterable[str]) -> FileDescriptorSet:
    ours = (Path(hauberk.__file__).parent / "protos").resolve()
    include = [f"-I{folder}" for folder in (*folders, ours, ours / "third_party")]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "contracts.binpb"
        done = subprocess.run(  # noqa: S603 - protoc, on files of the operator's own
            [
                *_protoc(),
                *include,
                "--include_source_info",
                "--include_imports",
                f"--descriptor_set_out={out}",
                *names,
            ],
            text=True,
            capture_output=True,
            timeout=PROTOC_S,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.strip() or f"exit code {done.returncode}"
            raise CommandFailed(
                f"protoc cannot read the contracts: {said}", "correct them, or --protos FOLDER"
            )
        return FileDescriptorSet.FromString(out.read_bytes())


def _protoc() -> list[str]:
    if importlib.util.find_spec("grpc_tools"):
        return [sys.executable, "-m", "grpc_tools.protoc"]
    if found := shutil.which("protoc"):
        return [found]
    raise CommandFailed("no protoc is here to read the contracts with", "pip install grpcio-tools")


def _shown(file: Path) -> str:
    """As seen from where the command runs, if it is below."""
    here = Path.cwd()
    return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)
