"""What a process is told before it joins: from the environment, one TOML file, or the program itself.

HAUBERK_<FIELD> wins over the same key, in lower case, at the top level of the TOML file named by
HAUBERK_CONFIG, and both over the defaults. A name nobody knows is an error: most likely it is misspelt, and
would do nothing.
"""

import difflib
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Self

from hauberk.certs.errors import IdentityError
from hauberk.certs.identity import SpiffeId, parse_trust_domain
from hauberk.errors import SettingsError

PREFIX = "HAUBERK_"
CONFIG = "HAUBERK_CONFIG"
RESERVED = "HAUBERK_CONTROL_"
"""The control plane's own settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One process of one workload. Valid, or SettingsError naming the field and the remedy."""

    name: str
    """Workload path, "orders" or "prod/orders"."""
    state_dir: Path
    """Holds key, certificates and trust between starts; for processes of this workload only."""
    enrolment: str
    """host:port where the control plane gives first certificates."""
    roots: Path
    """PEM file of the roots that the control plane is known by before anything else is."""
    trust_domain: str | None = None
    """Checked against what is enrolled, where given."""
    join_token_fd: int | None = None
    """An inherited file descriptor to read a join token from."""
    join_token_file: Path | None = None
    listen: str = "127.0.0.1:0"
    advertise: str | None = None
    """host or host:port that callers connect to, where it is not what we listen on."""
    replica: str = "1"
    access_log: bool = False
    """One JSON line a call, on standard error."""
    audit_dir: Path | None = None
    """A folder for the audit log; None: "audit" in `state_dir`. Several processes may share one."""
    metrics_listen: str | None = None
    """host:port where Prometheus may ask for metrics, of anybody and without TLS; None: nowhere."""
    otlp_endpoint: str | None = None
    """http://host:port of a collector that takes spans and metrics over gRPC; None: nowhere.

    Where the environment does not say, OTEL_EXPORTER_OTLP_ENDPOINT is it; and OTEL_TRACES_SAMPLER the next.
    Metrics go every OTEL_METRIC_EXPORT_INTERVAL ms (a minute), and not with OTEL_METRICS_EXPORTER=none.
    """
    trace_ratio: float = 1.0
    """Of the traces that begin here: how many are sampled, 0 to 1. Others are as their caller says."""
    drain_seconds: float = 10.0
    """The longest that a stopping server waits for its calls."""
    token_issuers: Path | None = None
    """TOML file whose [tokens.NAME] tables say whose access tokens are believed; None: nobody's."""
    memory_limit: int | None = None
    """Bytes in use from which new calls are refused; None: 80 % of what machine or control group have."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                object.__setattr__(self, field.name, _parsed(field.name, value, field.name))

    @classmethod
    def load(cls, env: Mapping[str, str] = os.environ, **overrides: Any) -> Self:
        """The settings of this environment, `overrides` first. Raises SettingsError in one line."""
        given: dict[str, Any] = {}
        given |= _of_opentelemetry(env)
        given |= _from_file(Path(env[CONFIG])) if env.get(CONFIG) else {}
        given |= _from_environment(env)
        for name, value in overrides.items():
            given[_known(name, f"argument {name}")] = value
        for field in fields(cls):
            if field.default is MISSING and field.name not in given:
                raise SettingsError(f"{_variable(field.name)} is missing: {_REMEDY[field.name]}")
        return cls(**given)


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of "host:port" or "[v6]:port"; ValueError if it is neither."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError("not host:port")
    if (":" in host) != (host.startswith("[") and host.endswith("]")):
        raise ValueError("not host:port; an IPv6 address stands in brackets")
    return host, int(port)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{CONFIG}: cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{CONFIG}: {path} is not TOML: {error}") from error
    return {
        _known(key, f"{key} in {path}"): _parsed(key, value, f"{key} in {path}")
        for key, value in table.items()
    }


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for variable, text in env.items():
        if variable.startswith(PREFIX) and variable != CONFIG and not variable.startswith(RESERVED):
            name = _known(variable.removeprefix(PREFIX).swapcase(), variable, _variable)
            found[name] = _parsed(name, text, variable)
    return found


def _known(name: str, where: str, spelled: Callable[[str], str] = str) -> str:
    """`name`, if it is a setting; `spelled` writes one as it is where this one was found."""
    if name in _PARSERS:
        return name
    if name == "join_token":
        file, fd = spelled("join_token_file"), spelled("join_token_fd")
        remedy = f"name a file that holds the token in {file}, or an open descriptor in {fd}"
        raise SettingsError(f"{where} is no setting: {remedy}")
    near = [f"did you mean {spelled(like)}?" for like in difflib.get_close_matches(name, _PARSERS, n=1)]
    known = f"there are {', '.join(map(spelled, sorted(_PARSERS)))}"
    raise SettingsError(f"{where} is no setting: correct or remove it; {' '.join([*near, known])}")


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _parsed(name: str, value: Any, where: str) -> Any:
    try:
        return _PARSERS[name](value)
    except ValueError as error:
        raise SettingsError(f"{where} is {_shown(value)}: {error}") from error


def _shown(value: object) -> str:
    return repr(value)[:99]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("write a text that is not empty")
    return value


def _name(value: Any) -> str:
    try:
        return SpiffeId.of("any", _text(value)).name
    except IdentityError as error:
        raise ValueError(f'{error}; write a workload path like "orders" or "prod/orders"') from error


def _trust_domain(value: Any) -> str:
    try:
        return parse_trust_domain(_text(value))
    except IdentityError as error:
        raise ValueError(f'{error}; write a trust domain like "shop.test"') from error


def _path(value: Any) -> Path:
    return value if isinstance(value, Path) else Path(_text(value))


def _listen(value: Any) -> str:
    parse_address(_text(value))
    return str(value)


def _metrics_listen(value: Any) -> str:
    """A port alone is one of loopback."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)
    return _listen(f"127.0.0.1:{text}" if text.isascii() and text.isdecimal() else text)


def _target(value: Any) -> str:
    if parse_address(_text(value))[1] == 0:
        raise ValueError("port 0 cannot be dialled")
    return str(value)


def _advertise(value: Any) -> str:
    text = _text(value)
    if ":" in text:
        parse_address(text)
    return text


def _replica(value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)
    if len(text) > 64:
        raise ValueError("write at most 64 characters")
    return text


def _fd(value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise ValueError("write the number of a file descriptor")
    return int(text)


def _flag(value: Any) -> bool:
    known = {True: True, False: False, "1": True, "true": True, "0": False, "false": False}
    if not isinstance(value, bool | str) or value not in known:
        raise ValueError("write 1 or 0, true or false")
    return known[value]


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError("write seconds, 0 to 3600") from error
    if isinstance(value, bool) or not math.isfinite(seconds) or not 0 <= seconds <= 3600:
        raise ValueError("write seconds, 0 to 3600")
    return seconds


def _ratio(value: Any) -> float:
    try:
        ratio = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError("write a number, 0 to 1") from error
    if isinstance(value, bool) or not 0 <= ratio <= 1:
        raise ValueError("write a number, 0 to 1")
    return ratio


def _of_opentelemetry(env: Mapping[str, str]) -> dict[str, Any]:
    """What OpenTelemetry's own variables say (OpenTelemetry Environment Variable Specification)."""
    found: dict[str, Any] = {}
    if endpoint := env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or env.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        found["otlp_endpoint"] = endpoint
    sampler = env.get("OTEL_TRACES_SAMPLER", "").removeprefix("parentbased_")
    if sampler == "always_off":
        found["trace_ratio"] = 0.0
    elif sampler == "traceidratio" and (ratio := env.get("OTEL_TRACES_SAMPLER_ARG")):
        found["trace_ratio"] = _parsed("trace_ratio", ratio, "OTEL_TRACES_SAMPLER_ARG")
    return found


def _bytes(value: Any) -> int:
    found = _SIZE.fullmatch(str(value))
    if isinstance(value, bool) or found is None:
        raise ValueError('write bytes, or as "512MiB" or "2GiB"')
    size = int(found[1]) * _UNITS[found[2]]
    if not 2**20 <= size <= 2**50:
        raise ValueError("write at least 1MiB")
    return size


_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = re.compile(r"([0-9]{1,15})(|KiB|MiB|GiB)")

_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "name": _name,
    "state_dir": _path,
    "enrolment": _target,
    "roots": _path,
    "trust_domain": _trust_domain,
    "join_token_fd": _fd,
    "join_token_file": _path,
    "listen": _listen,
    "advertise": _advertise,
    "replica": _replica,
    "access_log": _flag,
    "audit_dir": _path,
    "metrics_listen": _metrics_listen,
    "otlp_endpoint": _text,
    "trace_ratio": _ratio,
    "drain_seconds": _seconds,
    "token_issuers": _path,
    "memory_limit": _bytes,
}
_REMEDY = {
    "name": 'set it to the workload path, like "orders"',
    "state_dir": "set it to a folder for this workload's key and certificates",
    "enrolment": "set it to the control plane's enrolment address, host:port",
    "roots": "set it to the PEM file of the mesh's roots (`hauberk ca show` prints its path)",
}
