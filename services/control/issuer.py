"""A certificate for a request: signed, remembered, and only then given away."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from hauberk.certs.authority import Authority
from hauberk.certs.errors import AuthorityError, CsrRefused, IdentityError
from hauberk.certs.identity import LeafIdentity, SpiffeId, identify_certificate, issuable
from hauberk.certs.svid import BACK_DATED, parse_chain
from hauberk.protos.hauberk.control.v1 import enrolment_pb2
from hauberk.services.control.errors import AuthorityUnavailable, RequestRefused, ask

Remember = Callable[[LeafIdentity, datetime], None]

_log = logging.getLogger(__name__)


class Issuer:
    """Signs for workloads and operators, never for the control plane: its own SVIDs are made in trust.py."""

    def __init__(self, authority: Authority, *, lifetime: timedelta, clock: Callable[[], datetime]) -> None:
        self._authority = authority
        self._lifetime = lifetime
        self._clock = clock

    async def issue(
        self, request: bytes, spiffe_id: SpiffeId, remember: Remember
    ) -> enrolment_pb2.Certificate:
        """The certificate that names the key of `request` (PKCS #10, DER) `spiffe_id`.

        `remember` blocks and is called first; what it raises keeps the certificate here. Raises
        RequestRefused for a request that is broken or asks for a name, or a name nobody may have.
        """
        now = self._clock()
        try:
            chain_pem = await asyncio.to_thread(
                self._authority.sign, request, issuable(spiffe_id), lifetime=self._lifetime, now=now
            )
        except CsrRefused as error:
            raise RequestRefused(str(error), reason="CSR_REFUSED") from error
        except IdentityError as error:
            raise RequestRefused(str(error), reason="NAME_REFUSED") from error
        except AuthorityError as error:
            _log.error("the authority cannot sign: %s", error)
            raise AuthorityUnavailable("the authority cannot sign now; its log says why") from error
        leaf = identify_certificate(parse_chain(chain_pem)[0])
        await ask(remember, leaf, now)
        certificate = enrolment_pb2.Certificate(chain_pem=chain_pem, spiffe_id=str(spiffe_id))
        certificate.expires_at.FromDatetime(leaf.not_after)
        certificate.lifetime.FromTimedelta(leaf.not_after - leaf.not_before - BACK_DATED)
        return certificate
