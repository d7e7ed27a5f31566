"""What a member hears of trust, by a stream of its own: one is enough, and its word holds."""

import asyncio

from hauberk.protos.hauberk.control.v1 import admin_pb2
from tests.face.control import Control, admin, eventually


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
