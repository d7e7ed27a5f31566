"""Whom the mesh trusts now, and the control plane's own SVID, which must always be under it."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from hauberk.certs import pem
from hauberk.certs.authority import Authority
from hauberk.certs.credentials import Credentials
from hauberk.certs.errors import AuthorityError
from hauberk.certs.identity import SpiffeId
from hauberk.certs.watch import Watch
from hauberk.interceptors.peer import Trust
from hauberk.protos.hauberk.control.v1 import enrolment_pb2
from hauberk.services.control.errors import NotYet


class TrustSource:
    """Trust as the authority's roots and the revocations make it, in `trust`; ours, in `credentials`.

    A step of the root roll and a renewal of our own SVID never overlap: an SVID of a root that has just been
    retired would keep everybody out.
    """

    def __init__(
        self,
        authority: Authority,
        *,
        revoked: Iterable[str],
        lifetime: timedelta,
        dns_names: Iterable[str],
        ip_addresses: Iterable[str],
        clock: Callable[[], datetime],
    ) -> None:
        """Blocks on the CPU. Raises AuthorityError or IdentityError for a name that we may not have."""
        self.authority = authority
        self._lifetime = lifetime
        self._names = tuple(dns_names), tuple(ip_addresses)
        self._clock = clock
        self._rolling = asyncio.Lock()
        self.trust = Watch(Trust(authority.bundle, frozenset(revoked)))
        self.credentials = Watch(self._issue())

    async def renew(self) -> Credentials:
        """Our next SVID; for `keep_fresh`, which sets it before anything else runs."""
        async with self._rolling:
            return await asyncio.to_thread(self._issue)

    async def roll(self, step: Callable[[datetime], None]) -> None:
        """Make one step of the root roll, then publish trust and present an SVID of the root that signs now.

        Raises NotYet with the step whose turn it is.
        """
        async with self._rolling:
            try:
                await asyncio.to_thread(step, self._clock())
            except AuthorityError as error:
                raise NotYet(str(error)) from error
            credentials = await asyncio.to_thread(self._issue)
            self.credentials.set(credentials)
            self.trust.set(replace(self.trust.value, bundle=self.authority.bundle))

    def revoke(self, spiffe_id: SpiffeId, served: Iterable[str] = ()) -> None:
        """Publish that this name is refused, and that nobody serves now what it `served`."""
        trust = self.trust.value
        revoked, withdrawn = trust.revoked | {str(spiffe_id)}, trust.withdrawn.union(served)
        self.trust.set(replace(trust, revoked=revoked, withdrawn=withdrawn))

    def bound(self, contracts: Iterable[str]) -> None:
        """Publish that these may be served again, if they were withdrawn."""
        trust = self.trust.value
        left = trust.withdrawn.difference(contracts)
        if left != trust.withdrawn:
            self.trust.set(replace(trust, withdrawn=left))

    def reinstate(self, spiffe_id: SpiffeId) -> None:
        """Publish that this name is refused no longer."""
        trust = self.trust.value
        self.trust.set(replace(trust, revoked=trust.revoked - {str(spiffe_id)}))

    def message(self) -> enrolment_pb2.Trust:
        """Trust as it is now, for workloads."""
        return to_proto(self.authority.trust_domain, self.trust.value)

    def _issue(self) -> Credentials:
        dns_names, ip_addresses = self._names
        svid = self.authority.issue(
            self.authority.control_id,
            lifetime=self._lifetime,
            now=self._clock(),
            dns_names=dns_names,
            ip_addresses=ip_addresses,
        )
        return Credentials(svid, self.authority.bundle)


def to_proto(trust_domain: str, trust: Trust) -> enrolment_pb2.Trust:
    """Trust as workloads are told it. Equal content has equal versions."""
    revoked, withdrawn = sorted(trust.revoked), sorted(trust.withdrawn)
    content = "\n".join((trust_domain, trust.bundle.fingerprint, *revoked, "", *withdrawn))
    return enrolment_pb2.Trust(
        trust_domain=trust_domain,
        roots_pem=trust.bundle.pem(),
        intermediates_pem=pem.write(trust.bundle.intermediates),
        revoked=revoked,
        withdrawn_contracts=withdrawn,
        version=hashlib.sha256(content.encode()).hexdigest()[:16],
    )
