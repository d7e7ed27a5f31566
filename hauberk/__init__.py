"""hauberk: a gRPC mesh without sidecars, joined by one call.

The names below are the whole public face. They are fetched on first use (PEP 562), so `import hauberk`
imports neither grpc nor anything else that reads the environment: a process can still set grpc's variables,
and fork, after it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hauberk.entry import join
    from hauberk.interceptors.call import current_call
    from hauberk.interceptors.errors import Refused
    from hauberk.mesh import Mesh
    from hauberk.resuming import resume
    from hauberk.running import run
    from hauberk.settings import Settings

__version__ = "0.1.0"
__all__ = ["Mesh", "Refused", "Settings", "current_call", "join", "resume", "run"]

_HOMES = {
    "Mesh": "hauberk.mesh",
    "Refused": "hauberk.interceptors.errors",
    "Settings": "hauberk.settings",
    "current_call": "hauberk.interceptors.call",
    "join": "hauberk.entry",
    "resume": "hauberk.resuming",
    "run": "hauberk.running",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
