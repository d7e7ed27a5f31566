"""Join tokens: how a workload shows, once, that somebody invited it.

A token is random and says nothing; what it stands for lies with the control plane under the token's digest,
so a stolen database admits nobody. It works once, for one SPIFFE ID, until it expires: single use is the
store's to hold, in one atomic step. 256 bits, so a plain digest suffices: there is nothing to guess.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hauberk.certs.errors import TokenExpired, TokenMalformed
from hauberk.certs.identity import SpiffeId, issuable

PREFIX = "hbk1."
"""Says what it is, to people and to scanners that look for leaked secrets."""
MAX_TTL = timedelta(days=7)
_TOKEN = re.compile(r"hbk1\.[A-Za-z0-9_-]{43}", re.ASCII)
_CONTRACT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """What a token stands for: who may join with it, what it may serve, until when (aware UTC)."""

    digest: bytes = field(repr=False)
    spiffe_id: SpiffeId
    serves: frozenset[str]
    expires_at: datetime

    def check_dates(self, now: datetime) -> None:
        """Raises TokenExpired if it is too late to join with it."""
        if now >= self.expires_at:
            raise TokenExpired(f"join token for {self.spiffe_id} expired at {self.expires_at.isoformat()}")


def mint(
    spiffe_id: SpiffeId, *, serves: Iterable[str], ttl: timedelta, now: datetime
) -> tuple[str, TokenRecord]:
    """A new token for `spiffe_id`, and the record to keep of it; the token itself is kept by nobody but its
    bearer.

    `serves` are the full names of the contracts it may serve. Raises IdentityError for a name nobody may
    have, ValueError for a contract's name that is none, or a `ttl` not over 0 and at most 7 days.
    """
    contracts = frozenset(serves)
    for contract in contracts:
        if not _CONTRACT.fullmatch(contract):
            raise ValueError(f"not a protobuf service's full name: {contract!r:.99}")
    if not timedelta(0) < ttl <= MAX_TTL:
        raise ValueError(f"a join token lives over 0 and at most {MAX_TTL.days} days, not {ttl}")
    token = PREFIX + secrets.token_urlsafe(32)
    record = TokenRecord(
        digest=digest(token), spiffe_id=issuable(spiffe_id), serves=contracts, expires_at=now + ttl
    )
    return token, record


def digest(token: str) -> bytes:
    """What a token is stored and looked up by: its SHA-256. Raises TokenMalformed unless it is a token."""
    if not _TOKEN.fullmatch(token):
        raise TokenMalformed("not a join token: it begins with 'hbk1.' and has 48 characters")
    return hashlib.sha256(token.encode("ascii")).digest()
