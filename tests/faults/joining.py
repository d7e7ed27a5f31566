"""A newcomer, who has a join token and nothing else yet."""

from datetime import UTC, datetime

from hauberk.enrolment import Admission, enrol, pinned_roots
from hauberk.protos.hauberk.control.v1 import admin_pb2
from tests.mesh.fleet import Fleet


async def join(mesh: Fleet, invitation: admin_pb2.InviteResponse) -> Admission:
    """Enrol with that token, which is spent only if it succeeds. Raises AioRpcError or CertsError."""
    addresses = await mesh.local.answers()
    roots = pinned_roots(mesh.state.roots)
    return await enrol(addresses.enrolment, invitation.join_token, roots=roots, now=lambda: datetime.now(UTC))
