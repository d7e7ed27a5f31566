"""mesh.toml: which processes make a mesh, who they are and what they may serve.

    trust_domain = "shop.test"
    [control]          listen, enrolment_listen, names, svid_lifetime, database, ca_passphrase_file
    [workloads.NAME]   command, serves, replicas, listen, env
    [policy."/METHOD"] callers, deadline, token, quota, priority, audit, message, shadow
    [tokens.NAME]      issuer, jwks, algorithm, typ, audience, max_lifetime_seconds
    [once]             workload, command, env, through

Everything is checked before anything starts, and everything that is wrong is an error that says what, where
and what to do; a key this build does not know is one too.
"""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from hauberk.certs.errors import IdentityError
from hauberk.certs.identity import SpiffeId, issuable, parse_dns_name, parse_trust_domain
from hauberk.cli.errors import MeshFileError
from hauberk.errors import SettingsError

MAX_REPLICAS = 64
SHORTEST_LIFE_S, LONGEST_LIFE_S = 10, 86400
OPERATOR = "operators/local"
"""Whom `hauberk up` joins as; every command speaks as it."""

_SERVICE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_WORKLOADS_OWN = frozenset({"HAUBERK_METRICS_LISTEN", "HAUBERK_AUDIT_DIR"})
"""Settings that `hauberk up` leaves to a workload's env."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_HOST_PORT = re.compile(r"([^\s:/]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d)", re.ASCII)
_IP_ADDRESS = re.compile(r"[0-9.]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*", re.ASCII)
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Control(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The control plane. Port 0: any free one, the same again at the next start."""

    listen: str = "127.0.0.1:0"
    enrolment_listen: str = "127.0.0.1:0"
    names: tuple[str, ...] = ("127.0.0.1",)
    svid_lifetime: str = "1h"
    database: str = ""
    ca_passphrase_file: str = ""
    """Beside mesh.toml; the CA's keys are encrypted with what it holds."""

    @property
    def dns_names(self) -> tuple[str, ...]:
        """Of the names it is dialled by, those that are no IP addresses."""
        return tuple(name for name in self.names if not _IP_ADDRESS.fullmatch(name))


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One workload: how it is started and what it may serve."""

    command: tuple[str, ...]
    serves: tuple[str, ...] = ()
    replicas: int = 1
    listen: str = "127.0.0.1:0"
    env: dict[str, str] = {}


class Once(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `up --once` runs when all serve, and the workloads that the trace it names last must pass."""

    workload: str
    command: tuple[str, ...]
    env: dict[str, str] = {}
    through: tuple[str, ...] = ()


class MeshFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole mesh.toml, valid. Workloads keep their order: they stop in the opposite one."""

    trust_domain: str
    control: Control = Control()
    workloads: dict[str, Workload] = {}
    tokens: dict[str, Any] = {}
    """Issuers of access tokens that every workload believes; see hauberk/token_issuers.py."""
    policy: dict[str, Any] = {}
    """Demands in place of a contract's, by method; see overrides.py."""
    once: Once | None = None

    @property
    def services(self) -> dict[str, str]:
        """The workload that serves each service, by the service's full name."""
        return {service: name for name, workload in self.workloads.items() for service in workload.serves}

    def id_of(self, name: str) -> SpiffeId:
        """The identity of a workload, an operator or the control plane."""
        return SpiffeId.of(self.trust_domain, name)


def read(path: Path) -> MeshFile:
    """The mesh that `path` describes. Raises MeshFileError: what, where, what to do."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise missing(path) from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not utf-8"
        raise MeshFileError(f"{path}: cannot be read: {why}", "check its mode; it must be utf-8") from None
    return parse(text, path.name)


def missing(path: Path) -> MeshFileError:
    """What to say where there is no mesh file."""
    return MeshFileError(
        f"no mesh file: {path}",
        "run this in the folder of your mesh.toml, or name it: --mesh FILE, with up: hauberk up FILE",
    )


def parse(text: str, file: str = "mesh.toml") -> MeshFile:
    """The mesh that the TOML `text` describes; `file` is its name in errors. Raises MeshFileError."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MeshFileError(f"{file}: not toml: {error}", "correct that line") from None
    _Check(file).keys(tables, MeshFile, "")
    try:
        mesh = msgspec.convert(tables, MeshFile)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        raise MeshFileError(
            f"{file}: {_place(where, tables)}: {what[:1].lower()}{what[1:]}",
            'text is in quotes, a list in brackets (serves = ["a.v1.B"]), a table is a heading ([control])',
        ) from None
    _Check(file).mesh(mesh)
    return mesh


def seconds(duration: str) -> int | None:
    """What "90s", "10m", "1h" or "2d" is in seconds; None if it is none of these."""
    found = _DURATION.fullmatch(duration)
    return int(found[1]) * _UNIT_S[found[2]] if found else None


class _Check:
    """The checks that a type cannot make; each raises MeshFileError."""

    def __init__(self, file: str) -> None:
        self._file = file

    def keys(self, table: dict[str, Any], kind: type[msgspec.Struct], at: str) -> None:
        """Unknown and missing keys of one table and those below it, by name and with the nearest known
        one.
        """
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        for key in table:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                known = f"write {near[0]}" if near else f"known here: {', '.join(fields)}"
                self._refuse(at, f"unknown key {key!r}", known)
        for name, field in fields.items():
            if field.required and name not in table:
                self._refuse(at, f"{name} is missing", _EXAMPLES[name])
        below: dict[str, type[msgspec.Struct]] = {"control": Control, "once": Once}
        for name in below.keys() & table.keys() & fields.keys():
            if isinstance(table[name], dict):
                self.keys(table[name], below[name], name)
        if kind is MeshFile and isinstance(table.get("workloads"), dict):
            for name, workload in table["workloads"].items():
                if isinstance(workload, dict):
                    self.keys(workload, Workload, f"workloads.{name}")

    def mesh(self, mesh: MeshFile) -> None:
        try:
            parse_dns_name(parse_trust_domain(mesh.trust_domain))
        except IdentityError as error:
            self._refuse("", f"trust_domain: {error}", _EXAMPLES["trust_domain"])
        self._control(mesh.control)
        bound: dict[str, str] = {}
        for name, workload in mesh.workloads.items():
            self._name(f"workloads.{name}", name, mesh.trust_domain)
            self._workload(f"workloads.{name}", workload)
            for service in workload.serves:
                if (other := bound.setdefault(service, name)) != name:
                    self._refuse(
                        f"workloads.{name}",
                        f"serves: {service} is served by {other} already",
                        "let one workload serve it; give that one more replicas",
                    )
        if mesh.tokens:
            self._tokens(mesh.tokens)
        if mesh.policy:
            self._policy(mesh)
        if mesh.once:
            self._once(mesh.once, mesh)

    def _control(self, control: Control) -> None:
        self._listen("control", "listen", control.listen)
        self._listen("control", "enrolment_listen", control.enrolment_listen)
        lifetime = seconds(control.svid_lifetime)
        if lifetime is None or not SHORTEST_LIFE_S <= lifetime <= LONGEST_LIFE_S:
            found = f"svid_lifetime: not a duration of 10s to 1d: {control.svid_lifetime!r:.40}"
            self._refuse("control", found, 'write a number and s, m, h or d: svid_lifetime = "1h"')
        if not control.names:
            self._refuse("control", "names is empty", 'write host names or IP addresses: ["127.0.0.1"]')
        for name in control.dns_names:
            try:
                parse_dns_name(name)
            except IdentityError as error:
                self._refuse("control", f"names: {error}", 'write host names or IP addresses: ["127.0.0.1"]')

    def _workload(self, at: str, workload: Workload) -> None:
        self._command(at, workload.command)
        self._listen(at, "listen", workload.listen)
        if not 1 <= workload.replicas <= MAX_REPLICAS:
            found = f"replicas: {workload.replicas} is not 1 to {MAX_REPLICAS}"
            self._refuse(at, found, "write how many processes of it to run")
        if workload.replicas > 1 and not workload.listen.endswith(":0"):
            found = f"listen: {workload.replicas} replicas cannot share {workload.listen}"
            self._refuse(at, found, 'let each take a free port: listen = "127.0.0.1:0"')
        for service in workload.serves:
            if not _SERVICE.fullmatch(service):
                found = f"serves: not a service's full name: {service!r:.99}"
                self._refuse(at, found, _EXAMPLES["serves"])
        self._env(at, workload.env)

    def _tokens(self, tables: dict[str, Any]) -> None:
        from hauberk.token_issuers import declared  # which takes grpc, and that 0.3 s: most have no tables

        try:
            declared(tables, self._file)
        except SettingsError as error:
            raise MeshFileError(str(error), _EXAMPLES["tokens"]) from None

    def _policy(self, mesh: MeshFile) -> None:
        from hauberk.cli.overrides import overrides_of  # which takes grpc too

        overrides_of(mesh.policy, mesh.services, self._file)

    def _once(self, once: Once, mesh: MeshFile) -> None:
        self._name("once", once.workload, mesh.trust_domain)
        self._command("once", once.command)
        self._env("once", once.env)
        for name in once.through:
            if name not in mesh.workloads:
                known = ", ".join(mesh.workloads) or "none"
                self._refuse("once", f"through: no such workload: {name!r:.40}", f"workloads here: {known}")

    def _env(self, at: str, env: dict[str, str]) -> None:
        for variable in env:
            if not _VARIABLE.fullmatch(variable):
                self._refuse(at, f"env: not a variable's name: {variable!r:.40}", "rename it")
            ours = variable.startswith("HAUBERK_") and variable not in _WORKLOADS_OWN
            if ours or variable == "GRPC_SSL_CIPHER_SUITES":
                self._refuse(at, f"env: {variable} is set by hauberk up itself", "remove it")

    def _name(self, at: str, name: str, trust_domain: str) -> None:
        try:
            issuable(SpiffeId.of(trust_domain, name))
        except IdentityError as error:
            self._refuse(at, f"workload's name: {error}", 'write lower-case words: "orders", "prod/orders"')
        if name.split("/")[0] == "operators":
            self._refuse(at, "workload's name: operators/ is for people", "name it after what it does")

    def _command(self, at: str, command: tuple[str, ...]) -> None:
        if not command or not command[0]:
            self._refuse(at, "command is empty", _EXAMPLES["command"])
        if any("\0" in part for part in command):
            self._refuse(at, "command holds a NUL", "remove it")

    def _listen(self, at: str, key: str, address: str) -> None:
        found = _HOST_PORT.fullmatch(address)
        if not found or int(found[2]) > 65535:
            self._refuse(at, f"{key}: not host:port: {address!r:.99}", f'write {key} = "127.0.0.1:0"')

    def _refuse(self, at: str, what: str, next_step: str) -> NoReturn:
        place = f" [{at}]" if at else ""
        raise MeshFileError(f"{self._file}:{place} {what}", next_step)


_EXAMPLES = {
    "trust_domain": 'write a name of yours at the top: trust_domain = "shop.test"',
    "command": 'write what starts it: command = ["python", "-m", "my.service"]',
    "serves": 'write package and service: serves = ["shop.orders.v1.Orders"]',
    "tokens": 'write who issues tokens, and where its keys are: issuer = "https://...", jwks = "https://..."',
    "workload": 'write whose identity it has: workload = "gateway"',
}


def _place(where: str, tables: dict[str, Any]) -> str:
    """TOML's way to say where: "[workloads.orders] serves", from msgspec's ".workloads[...].serves[0]`"."""
    parts = re.findall(r"\.(\w+)|\[(\.\.\.|\d+)\]", where)
    names = [name or index for name, index in parts]
    if names[:2] == ["workloads", "..."]:
        names[1] = _offender(tables["workloads"], names[2:])
    named = [name for name in names if not name.isdigit() and name != "..."]
    if len(named) < 2:
        return named[0] if named else "the file"
    depth = 2 if named[0] == "workloads" and len(named) > 2 else 1
    return f"[{'.'.join(named[:depth])}] {'.'.join(named[depth:])}"


def _offender(workloads: dict[str, Any], below: list[str]) -> str:
    """Which workload msgspec meant by `[...]`: the first that fails alone."""
    for name, workload in workloads.items():
        try:
            msgspec.convert(workload, Workload)
        except msgspec.ValidationError:
            return name
    return "...".join(below)
