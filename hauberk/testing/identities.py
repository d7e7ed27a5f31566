"""An authority that lives in memory alone, and what it has issued: each name one certificate."""

from datetime import UTC, datetime, timedelta

from hauberk.certs import keys, pem, profile
from hauberk.certs.bundle import Bundle
from hauberk.certs.credentials import Credentials
from hauberk.certs.identity import SpiffeId, identify_certificate
from hauberk.certs.svid import Svid

LIFETIME = timedelta(days=1)
"""Nothing renews them: no test takes so long."""


class Identities:
    """The workloads of one trust domain."""

    def __init__(self, trust_domain: str) -> None:
        now = datetime.now(UTC)
        root_key, self._key = keys.generate(), keys.generate()
        root = profile.root(root_key, trust_domain, now=now)
        self._intermediate = profile.intermediate(
            self._key.public_key(), trust_domain, issuer=root, issuer_key=root_key, now=now
        )
        self.trust_domain = trust_domain
        self.bundle = Bundle({trust_domain: (root,)}, (self._intermediate,))
        self._issued: dict[SpiffeId, Credentials] = {}

    def of(self, name: str) -> Credentials:
        """What the workload `name` shows. Raises IdentityError where that is no name."""
        spiffe_id = SpiffeId.of(self.trust_domain, name)
        if spiffe_id not in self._issued:
            key = keys.generate()
            leaf = profile.leaf(
                key.public_key(),
                spiffe_id,
                issuer=self._intermediate,
                issuer_key=self._key,
                now=datetime.now(UTC),
                lifetime=LIFETIME,
            )
            svid = Svid.parse(pem.write((leaf, self._intermediate)), keys.to_pem(key))
            self._issued[spiffe_id] = Credentials(svid, self.bundle)
        return self._issued[spiffe_id]

    def thumbprint(self, name: str) -> str:
        """Of that certificate, as tokens are bound to it (RFC 8705 section 3.1)."""
        return identify_certificate(self.of(name).svid.leaf).x5t_s256
