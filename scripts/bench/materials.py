"""What the processes of one run have in common: a folder, and the authority in it that names them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from hauberk.certs.authority import Authority
from hauberk.certs.credentials import Credentials
from hauberk.certs.identity import SpiffeId

TRUST_DOMAIN = "bench.test"
LIFETIME = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Materials:
    """An authority in a folder of the run, which names whoever asks."""

    folder: Path
    authority: Authority

    @classmethod
    def create(cls, folder: Path) -> Self:
        return cls(folder, Authority.create(folder / "ca", TRUST_DOMAIN, now=datetime.now(UTC)))

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(folder, Authority.load(folder / "ca"))

    def credentials(self, name: str) -> Credentials:
        """A certificate that nobody else has."""
        svid = self.authority.issue(SpiffeId.of(TRUST_DOMAIN, name), lifetime=LIFETIME, now=datetime.now(UTC))
        return Credentials(svid, self.authority.bundle)
