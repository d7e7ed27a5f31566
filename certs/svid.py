"""Proof of who someone is: a private key and the chain that names it (X509-SVID sections 3 and 5)."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hauberk.certs import keys, pem
from hauberk.certs.errors import IdentityError, KeyRefused, SvidError, SvidExpired, SvidNotYetValid
from hauberk.certs.identity import SpiffeId, identify_certificate

BACK_DATED = timedelta(seconds=10)
"""How far before its making a certificate of ours begins, for peers whose clock is behind."""
MAX_CHAIN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Svid:
    """A key, the chain that names it, and when it was made and ends (aware UTC)."""

    spiffe_id: SpiffeId
    key_pem: bytes = field(repr=False)
    chain_pem: bytes = field(repr=False)
    leaf: x509.Certificate = field(repr=False)
    issued_at: datetime
    """When it was made: its notBefore without the back-dating, so that half a life is half a life."""
    expires_at: datetime

    @classmethod
    def parse(cls, chain_pem: bytes, key_pem: bytes) -> Self:
        """The SVID made of this chain (leaf first, each signed by the next) and this key.

        Raises SvidError if they do not fit together or the leaf is no workload's. Neither dates nor trust
        are checked: a process may hold what has expired, and whom to trust is for a Bundle to say.
        """
        chain = parse_chain(chain_pem)
        try:
            identity = identify_certificate(chain[0])
            key = keys.from_pem(key_pem)
        except (IdentityError, KeyRefused) as error:
            raise SvidError(str(error)) from error
        if _spki(key.public_key()) != _spki(chain[0].public_key()):
            raise SvidError("key and certificate do not belong together")
        return cls(
            spiffe_id=identity.spiffe_id,
            key_pem=key_pem,
            chain_pem=chain_pem,
            leaf=chain[0],
            issued_at=min(identity.not_before + BACK_DATED, identity.not_after),
            expires_at=identity.not_after,
        )

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """The certificates of the chain, leaf first."""
        return parse_chain(self.chain_pem)

    @property
    def lifetime(self) -> timedelta:
        """How long it lives from its making to its end."""
        return self.expires_at - self.issued_at

    def remaining(self, now: datetime) -> timedelta:
        """How long it still lives at `now`; negative once it has expired."""
        return self.expires_at - now

    def check_dates(self, now: datetime) -> None:
        """Raises SvidExpired or SvidNotYetValid unless it lives at `now`."""
        if now > self.expires_at:
            raise SvidExpired(f"svid of {self.spiffe_id} expired at {self.expires_at:%Y-%m-%dT%H:%M:%SZ}")
        if now < self.leaf.not_valid_before_utc:
            begin = self.leaf.not_valid_before_utc
            raise SvidNotYetValid(f"svid of {self.spiffe_id} is not valid before {begin:%Y-%m-%dT%H:%M:%SZ}")


def parse_chain(chain_pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in `chain_pem`, leaf first. Raises SvidError unless each is signed by the next."""
    try:
        chain = pem.parse(chain_pem)
    except ValueError as error:
        raise SvidError(f"chain: {error}") from error
    if len(chain) > MAX_CHAIN:
        raise SvidError(f"chain has {len(chain)} certificates, at most {MAX_CHAIN} are accepted")
    for certificate, issuer in pairwise(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise SvidError("chain is not in order: a certificate is not signed by the next") from error
    return chain


def _spki(key: object) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded
