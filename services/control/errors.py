"""What the control plane refuses; each reaches the caller as it is.

Refused
├── TokenNotAccepted    UNAUTHENTICATED      TOKEN_MALFORMED, TOKEN_UNKNOWN, TOKEN_SPENT, TOKEN_EXPIRED
├── TooManyFailures     RESOURCE_EXHAUSTED   one address has tried too often
├── RequestRefused      INVALID_ARGUMENT     CSR_REFUSED, NAME_REFUSED, OFFER_REFUSED, INVITATION_REFUSED…
├── NameRevoked         PERMISSION_DENIED
├── NotBound            PERMISSION_DENIED    a contract its announcer may not serve
├── BoundElsewhere      FAILED_PRECONDITION  a contract that another name serves
├── AddressTaken        FAILED_PRECONDITION  an address that a living replica has
├── ReplicaTaken        FAILED_PRECONDITION  a replica that is alive at another address
├── TooManyVersions     FAILED_PRECONDITION  more versions of one contract than anybody rolls out
├── NotYet              FAILED_PRECONDITION  a step whose time has not come; says which has
├── OverridesUnfit      FAILED_PRECONDITION  overrides that a process there is cannot enforce
├── NotRevoked          FAILED_PRECONDITION  a name that is refused nowhere
├── NotPublished        UNAVAILABLE          callers were not told in time
├── AuthorityUnavailable  UNAVAILABLE        the CA cannot sign
└── StoreUnavailable    UNAVAILABLE
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import ParamSpec, TypeVar

import grpc
from sqlalchemy.exc import SQLAlchemyError

from hauberk.certs.errors import TokenExpired, TokenMalformed, TokenRefused, TokenSpent
from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.errors import Refused
from hauberk.services.sparing import Sparing

_log = logging.getLogger(__name__)
_log.addFilter(Sparing())
P = ParamSpec("P")
R = TypeVar("R")


class TokenNotAccepted(Refused):
    status = grpc.StatusCode.UNAUTHENTICATED
    reason = "TOKEN_UNKNOWN"

    @classmethod
    def because(cls, error: TokenRefused) -> "TokenNotAccepted":
        match error:
            case TokenMalformed():
                return cls(str(error), reason="TOKEN_MALFORMED")
            case TokenSpent():
                return cls(str(error), reason="TOKEN_SPENT")
            case TokenExpired():
                return cls(str(error), reason="TOKEN_EXPIRED")
            case _:
                return cls(str(error))


class TooManyFailures(Refused):
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_FAILURES"


class RequestRefused(Refused):
    status = grpc.StatusCode.INVALID_ARGUMENT
    reason = "REQUEST_REFUSED"


class NameRevoked(Refused):
    status = grpc.StatusCode.PERMISSION_DENIED
    reason = "REVOKED"

    @classmethod
    def at(cls, spiffe_id: SpiffeId, revoked_at: datetime) -> "NameRevoked":
        return cls(
            f"{spiffe_id} was revoked at {revoked_at:%Y-%m-%dT%H:%M:%SZ}; "
            f"to take that back: hauberk reinstate {spiffe_id.name}",
            metadata={"spiffe_id": str(spiffe_id)},
        )


class NotBound(Refused):
    status = grpc.StatusCode.PERMISSION_DENIED
    reason = "CONTRACT_NOT_BOUND"


class BoundElsewhere(Refused):
    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = "CONTRACT_BOUND_ELSEWHERE"


class AddressTaken(Refused):
    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = "ADDRESS_TAKEN"


class ReplicaTaken(Refused):
    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = "REPLICA_TAKEN"


class TooManyVersions(Refused):
    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = "TOO_MANY_VERSIONS"


class NotYet(Refused):
    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = "NOT_YET"


class OverridesUnfit(Refused):
    reason = "OVERRIDES_UNFIT"


class NotRevoked(Refused):
    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = "NOT_REVOKED"


class StoreUnavailable(Refused):
    status = grpc.StatusCode.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"


class AuthorityUnavailable(Refused):
    status = grpc.StatusCode.UNAVAILABLE
    reason = "AUTHORITY_UNAVAILABLE"


class NotPublished(Refused):
    status = grpc.StatusCode.UNAVAILABLE
    reason = "NOT_PUBLISHED"


async def ask(question: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Put a blocking question to the store, off the event loop.

    A database that fails in any way is UNAVAILABLE to the caller: what it says is for our log.
    """
    try:
        return await asyncio.to_thread(question, *args, **kwargs)
    except SQLAlchemyError as error:
        _log.error("the store failed: %s", str(error).partition("\n")[0])
        raise StoreUnavailable("the control plane's store does not answer; try again") from error
