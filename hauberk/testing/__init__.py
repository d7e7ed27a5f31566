"""For tests of your own services: a mesh in the test's process, with callers, tokens and a clock at its hand.

Nothing is stood in for: the servers, the guard before their methods and the TLS between them are those of
the real mesh, on loopback. Only the control plane is left out. Said once, in conftest.py:

    pytest_plugins = ["hauberk.pytest_plugin"]

and a test asks for `hauberk_mesh`:

    from hauberk.testing import refused

    async def test_only_the_gateway_places_orders(hauberk_mesh):
        async with hauberk_mesh.serving(Orders(), name="orders"):
            placed = await OrdersStub(hauberk_mesh.channel("gateway")).PlaceOrder(order, timeout=2)
            with refused("PERMISSION_DENIED", reason="CALLER_NOT_ALLOWED"):
                await OrdersStub(hauberk_mesh.channel("catalog")).PlaceOrder(order, timeout=2)

Without pytest: `with hauberk.testing.LocalMesh() as mesh`.
"""

from hauberk.testing.local_mesh import LocalMesh
from hauberk.testing.refusals import Refusal, refused

__all__ = ["LocalMesh", "Refusal", "refused"]
