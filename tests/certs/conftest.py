"""What the tests of certs share: an authority, and credentials from it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hauberk.certs.authority import Authority
from hauberk.certs.credentials import Credentials
from hauberk.certs.identity import SpiffeId


class Mint:
    """An authority of the real present, for what goes through real handshakes and real disks."""

    def __init__(self, folder: Path, trust_domain: str = "mesh.test") -> None:
        self.authority = Authority.create(folder, trust_domain, now=datetime.now(UTC))

    def credentials(self, name: str = "orders", *, lifetime: timedelta = timedelta(hours=1)) -> Credentials:
        spiffe_id = SpiffeId.of(self.authority.trust_domain, name)
        svid = self.authority.issue(spiffe_id, lifetime=lifetime, now=datetime.now(UTC))
        return Credentials(svid, self.authority.bundle)

    def roll(self, *steps: str) -> None:
        for step in steps:
            getattr(self.authority, step)(datetime.now(UTC))


@pytest.fixture
def mint(tmp_path: Path) -> Mint:
    return Mint(tmp_path / "ca")


@pytest.fixture
def other_mint(tmp_path: Path) -> Mint:
    """The authority of another trust domain."""
    return Mint(tmp_path / "other-ca", "other.test")
