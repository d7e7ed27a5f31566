"""The servicers that hand out certificates: the first for a join token, the next for the last one."""

import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import grpc

from hauberk.certs import join
from hauberk.certs.errors import TokenRefused
from hauberk.interceptors.errors import Refused
from hauberk.protos.hauberk.control.v1 import enrolment_pb2, enrolment_pb2_grpc
from hauberk.services.control.attempts import FailedAttempts
from hauberk.services.control.caller import caller
from hauberk.services.control.errors import TokenNotAccepted, ask
from hauberk.services.control.issuer import Issuer
from hauberk.services.control.root_roll import Audience
from hauberk.services.control.store import Store
from hauberk.services.control.trust import TrustSource

Context = grpc.aio.ServicerContext[Any, Any]

_log = logging.getLogger(__name__)


class Enrolment(enrolment_pb2_grpc.EnrolmentServicer):
    """Trades join tokens for SVIDs, once each."""

    def __init__(
        self,
        store: Store,
        issuer: Issuer,
        source: TrustSource,
        *,
        control_targets: Callable[[], tuple[str, ...]],
        attempts: FailedAttempts,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._issuer = issuer
        self._source = source
        self._control_targets = control_targets
        self._attempts = attempts
        self._clock = clock

    async def Enrol(  # noqa: N802 - the contract's name
        self, request: enrolment_pb2.EnrolRequest, context: Context
    ) -> enrolment_pb2.EnrolResponse:
        address = _host(context.peer())
        self._attempts.check(address)
        try:
            certificate = await self._enrol(request)
        except Refused as refusal:
            if refusal.status is not grpc.StatusCode.UNAVAILABLE:
                self._attempts.failed(address)
            _log.warning("enrolment from %s refused: %s: %s", address, refusal.reason, refusal.message)
            raise
        _log.info("%s enrolled from %s", certificate.spiffe_id, address)
        return enrolment_pb2.EnrolResponse(
            certificate=certificate,
            trust=self._source.message(),
            control_targets=self._control_targets(),
            control_id=str(self._source.authority.control_id),
        )

    async def _enrol(self, request: enrolment_pb2.EnrolRequest) -> enrolment_pb2.Certificate:
        """The token is looked at first and spent last, together with the certificate's record.

        So a broken request costs no token, and no crash between leaves a token that works twice.
        """
        try:
            digest = join.digest(request.join_token)
            spiffe_id = await ask(self._store.invited, digest, self._clock())
            return await self._issuer.issue(
                request.certificate_request, spiffe_id, partial(self._store.enrol, digest)
            )
        except TokenRefused as error:
            raise TokenNotAccepted.because(error) from error


class Identity(enrolment_pb2_grpc.IdentityServicer):
    """Renews SVIDs, and tells whom to trust as that changes."""

    def __init__(self, store: Store, issuer: Issuer, source: TrustSource, audience: Audience) -> None:
        self._store = store
        self._issuer = issuer
        self._source = source
        self._audience = audience

    async def Renew(  # noqa: N802 - the contract's name
        self, request: enrolment_pb2.RenewRequest, context: Context
    ) -> enrolment_pb2.RenewResponse:
        peer = caller()
        try:
            certificate = await self._issuer.issue(
                request.certificate_request, peer.spiffe_id, self._store.issued
            )
        except Refused as refusal:
            _log.warning("renewal of %s refused: %s: %s", peer.spiffe_id, refusal.reason, refusal.message)
            raise
        return enrolment_pb2.RenewResponse(certificate=certificate, trust=self._source.message())

    async def WatchTrust(  # type: ignore[override]  # noqa: N802 - a coroutine: it writes by the context
        self, request: enrolment_pb2.WatchTrustRequest, context: Context
    ) -> None:
        with self._audience.listening(caller().spiffe_id) as sent:
            async for _ in self._source.trust.changes():
                message = self._source.message()
                await context.write(message)
                sent(message.version)


def _host(peer: str) -> str:
    """The address without the port of "ipv4:127.0.0.1:50051" or "ipv6:%5B::1%5D:50051"."""
    return peer.rpartition(":")[0].partition(":")[2]
