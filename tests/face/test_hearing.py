"""What a member hears of trust, by a stream of its own: one is enough, and its word holds."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from hauberk import tenure
from hauberk.enrolment import renew
from hauberk.protos.hauberk.control.v1 import admin_pb2
from tests.face.control import Control, admin, eventually

CATALOG = "spiffe://shop.test/catalog"


async def test_an_answer_from_before_a_revocation_does_not_take_it_back(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal that control answered a moment earlier may be read a moment later."""
    gateway, operator = await control.member("gateway"), await admin(control)
    await control.member("catalog", ends=True)
    await eventually(lambda: gateway._tenure._hears)
    answered = await renew(gateway.control, now=lambda: datetime.now(UTC))
    await operator.Revoke(admin_pb2.RevokeRequest(name="catalog", reason="test"), timeout=5)
    await eventually(lambda: CATALOG in gateway.trust.value.revoked)

    async def late(*_: Any, **__: Any) -> Any:
        return answered

    monkeypatch.setattr(tenure, "renew", late)
    renewed = await gateway._tenure._renewed()
    assert renewed.svid == answered[0].svid
    assert renewed.bundle == gateway.credentials.value.bundle
    assert CATALOG in gateway.trust.value.revoked


async def test_trust_that_cannot_be_written_is_heard_over_the_same_stream(control: Control) -> None:
    """One more stream each second would take the connection's hundred, and renewals their place."""
    gateway, operator = await control.member("gateway"), await admin(control)
    await control.member("catalog", ends=True)
    calls = control.plane.mesh._guard.in_flight
    await eventually(lambda: gateway._tenure._hears)
    before = calls.count(str(gateway.id))
    (gateway.settings.state_dir / ".current.new").mkdir()
    roll = admin_pb2.RollRootRequest(step=admin_pb2.RollRootRequest.STEP_PREPARE)
    await operator.RollRoot(roll, timeout=5)
    await eventually(lambda: len(gateway.trust.value.bundle.anchors["shop.test"]) == 2)
    await asyncio.sleep(1.5)
    assert calls.count(str(gateway.id)) == before
    assert gateway._tenure._hears
