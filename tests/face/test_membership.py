"""What a member keeps of its mesh between starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from hauberk.certs.errors import StoreError
from hauberk.certs.identity import SpiffeId
from hauberk.membership import FILE, Membership

KEPT = {"control_targets": ["127.0.0.1:1"], "control_id": "spiffe://mesh.test/control", "revoked": []}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = Membership(
        control_targets=("127.0.0.1:1", "127.0.0.2:1"),
        control_id=SpiffeId.of("mesh.test", "control"),
        revoked=frozenset({"spiffe://mesh.test/gateway"}),
    )
    saved.save(tmp_path)
    assert Membership.load(tmp_path) == saved
    assert saved.dial == "ipv4:127.0.0.1:1,127.0.0.2:1"


@pytest.mark.parametrize(
    "damage",
    [
        {"control_targets": []},
        {"control_targets": "127.0.0.1:1"},
        {"control_targets": [1]},
        {"control_id": 1},
        {"control_id": "control"},
        {"revoked": "spiffe://mesh.test/gateway"},
        {"revoked": None},
    ],
    ids=str,
)
def test_what_is_damaged_is_not_loaded(tmp_path: Path, damage: dict[str, Any]) -> None:
    """Read as far as it goes, it would forget who was revoked."""
    path = tmp_path / FILE
    path.write_text(json.dumps({**KEPT, **damage}))
    path.chmod(0o600)
    with pytest.raises(StoreError, match=f"{FILE} is damaged"):
        Membership.load(tmp_path)
