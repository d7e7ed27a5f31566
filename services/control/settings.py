"""What the control plane is told: `trust_domain` and `[control]` of mesh.toml, and where its state lies.

    HAUBERK_CONTROL_CONFIG              mesh.toml
    HAUBERK_CONTROL_STATE               the state folder, `.hauberk`
    HAUBERK_CONTROL_OPERATOR_TOKEN_FD   optional: a descriptor to read the first operator's join token from
    HAUBERK_ACCESS_LOG                  "1": a JSON line on stderr for each call
    HAUBERK_AUDIT_DIR                   optional: a folder for the audit log, not control/audit in the state
    HAUBERK_METRICS_LISTEN              optional: host:port for Prometheus, of anybody and without TLS

mesh.toml's other sections are for whoever starts the workloads, and are not read here.
"""

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from hauberk.certs.errors import CertsError
from hauberk.certs.identity import parse_dns_name, parse_trust_domain
from hauberk.certs.rotation import Schedule

SHORTEST, LONGEST = timedelta(seconds=10), timedelta(days=1)
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_KEYS = frozenset({"listen", "enrolment_listen", "names", "svid_lifetime", "database", "ca_passphrase_file"})


class ConfigError(Exception):
    """A setting that cannot be used: `str()` is one line that says where it stands and what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """A host and a port to bind; port 0 takes a free one and keeps it over restarts."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        host, colon, port = text.rpartition(":")
        if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or int(port) > 65535:
            raise ValueError(f"not host:port: {text!r:.99}")
        return cls(host=host, port=int(port))

    def with_port(self, port: int) -> Self:
        return type(self)(host=self.host, port=port)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """Everything the control plane is told, checked."""

    trust_domain: str
    state: Path
    listen: Listen
    enrolment_listen: Listen
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    svid_lifetime: timedelta
    database: str
    """URL; SQLite below the state folder unless mesh.toml names another."""
    ca_passphrase_file: Path | None
    operator_token_fd: int | None
    access_log: bool
    audit_dir: Path | None = None
    """None: control/audit in the state folder."""
    metrics_listen: str | None = None
    """host:port where Prometheus may ask for metrics; None: nowhere."""

    @classmethod
    def load(cls, environment: Mapping[str, str]) -> Self:
        """The settings that the environment leads to. Raises ConfigError."""
        path = Path(_wanted(environment, "HAUBERK_CONTROL_CONFIG", "the path of mesh.toml"))
        state = Path(_wanted(environment, "HAUBERK_CONTROL_STATE", "the state folder")).absolute()
        content = _read(path)
        control = content.get("control", {})
        if not isinstance(control, dict) or (unknown := sorted(control.keys() - _KEYS)):
            what = f"unknown key {unknown[0]!r}" if isinstance(control, dict) else "not a table"
            raise ConfigError(f"{path}: [control]: {what}; known are {', '.join(sorted(_KEYS))}")
        try:
            dns_names, ip_addresses = _names(_strings(control, "names", ["127.0.0.1"]))
            return cls(
                trust_domain=parse_trust_domain(_string(content, "trust_domain", "")),
                state=state,
                listen=Listen.parse(_string(control, "listen", "127.0.0.1:0")),
                enrolment_listen=Listen.parse(_string(control, "enrolment_listen", "127.0.0.1:0")),
                dns_names=dns_names,
                ip_addresses=ip_addresses,
                svid_lifetime=_lifetime(_string(control, "svid_lifetime", "1h")),
                database=_string(control, "database", "") or f"sqlite:///{state}/control/control.db",
                ca_passphrase_file=_beside(path, _string(control, "ca_passphrase_file", "")),
                operator_token_fd=_descriptor(environment.get("HAUBERK_CONTROL_OPERATOR_TOKEN_FD", "")),
                access_log=environment.get("HAUBERK_ACCESS_LOG", "") not in ("", "0"),
                metrics_listen=_metrics_listen(environment.get("HAUBERK_METRICS_LISTEN", "")),
                audit_dir=Path(named) if (named := environment.get("HAUBERK_AUDIT_DIR")) else None,
            )
        except (ValueError, CertsError) as error:
            raise ConfigError(f"{path}: {error}") from error

    @property
    def schedule(self) -> Schedule:
        return Schedule.of(self.svid_lifetime.total_seconds())

    def ca_passphrase(self) -> bytes | None:
        """What the CA's keys are encrypted with, without the line's end. Raises ConfigError."""
        if self.ca_passphrase_file is None:
            return None
        try:
            found = self.ca_passphrase_file.read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise ConfigError(
                f"[control] ca_passphrase_file: {self.ca_passphrase_file}: {error.strerror}"
            ) from error
        if not found:
            raise ConfigError(f"[control] ca_passphrase_file: {self.ca_passphrase_file} is empty")
        return found

    def target(self, listen: Listen, port: int) -> str:
        """Where workloads dial what listens so: at its host, or the first of `names` if it binds them all."""
        host = listen.host
        if host.strip("[]") in ("0.0.0.0", "::", "*"):  # noqa: S104 - compared, not bound
            first = (*self.ip_addresses, *self.dns_names)[0]
            host = f"[{first}]" if ":" in first else first
        return f"{host}:{port}"


def _wanted(environment: Mapping[str, str], name: str, what: str) -> str:
    if not environment.get(name):
        raise ConfigError(f"{name} is not set: it names {what}; `hauberk up` sets it")
    return environment[name]


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not toml: {error}") from error


def _string(table: Mapping[str, object], key: str, default: str) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a string: {value!r:.99}")
    return value


def _strings(table: Mapping[str, object], key: str, default: list[str]) -> list[str]:
    value = table.get(key, default)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key} is not a list of one or more strings: {value!r:.99}")
    return value


def _names(names: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The DNS names and the IP addresses among `names`."""
    dns_names: list[str] = []
    ip_addresses: list[str] = []
    for name in names:
        try:
            ip_addresses.append(str(ipaddress.ip_address(name)))
        except ValueError:
            dns_names.append(parse_dns_name(name))
    return tuple(dns_names), tuple(ip_addresses)


def _lifetime(text: str) -> timedelta:
    matched = _DURATION.fullmatch(text)
    if matched is None:
        raise ValueError(f"svid_lifetime is no duration like 90s, 20m, 1h: {text!r:.99}")
    lifetime = timedelta(**{_UNITS[matched[2]]: int(matched[1])})
    if not SHORTEST <= lifetime <= LONGEST:
        raise ValueError(f"svid_lifetime is not between 10s and 1d: {text!r}")
    return lifetime


def _beside(config: Path, text: str) -> Path | None:
    return config.parent / text if text else None


def _metrics_listen(text: str) -> str | None:
    return str(Listen.parse(text)) if text else None


def _descriptor(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII):
        raise ValueError(f"HAUBERK_CONTROL_OPERATOR_TOKEN_FD is no file descriptor: {text!r:.99}")
    return int(text)
