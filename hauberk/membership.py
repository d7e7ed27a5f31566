"""What a process knows of its mesh, besides its credentials, and keeps between starts.

It lies beside the credentials: who finds both needs no control plane to start. The names revoked are
those known last, so that a revoked caller is refused even while nobody can be asked.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hauberk.certs import files
from hauberk.certs.errors import IdentityError, StoreError
from hauberk.certs.identity import SpiffeId

FILE = "membership.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """Where the control plane is, who it is, and whom it has revoked."""

    control_targets: tuple[str, ...]
    control_id: SpiffeId
    revoked: frozenset[str] = frozenset()

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What was saved in `folder`, None if nothing was. Raises StoreError if it is unreadable or loose."""
        path = folder / FILE
        if not path.exists():
            return None
        try:
            kept = json.loads(files.read(path))
            return cls(
                control_targets=_texts(kept["control_targets"], at_least=1),
                control_id=SpiffeId.parse(kept["control_id"]),
                revoked=frozenset(_texts(kept["revoked"])),
            )
        except (ValueError, KeyError, TypeError, AttributeError, IdentityError) as error:
            raise StoreError(f"{path} is damaged: remove it and enrol again") from error

    def save(self, folder: Path) -> None:
        """Replace what was saved in `folder`. Raises StoreError."""
        kept = {
            "control_targets": list(self.control_targets),
            "control_id": str(self.control_id),
            "revoked": sorted(self.revoked),
        }
        files.replace(folder / FILE, json.dumps(kept, indent=1).encode())

    @property
    def dial(self) -> str:
        """One gRPC target for all control plane replicas."""
        hosts = [target.rpartition(":")[0] for target in self.control_targets]
        if len(hosts) > 1 and all(host.replace(".", "").isdecimal() for host in hosts):
            return f"ipv4:{','.join(self.control_targets)}"
        return self.control_targets[0]


def _texts(kept: object, *, at_least: int = 0) -> tuple[str, ...]:
    if not isinstance(kept, list) or len(kept) < at_least or not all(isinstance(text, str) for text in kept):
        raise ValueError("not a list of texts")
    return tuple(kept)
