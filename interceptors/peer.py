"""Who calls: the certificate of the connection, read anew and held against what we trust now, on every call.

Core checks a certificate once, in a full handshake. A resumed session or a connection that lived on is never
checked again, and nothing of SPIFFE is checked at all; what its auth context says of names is cut at NUL. So
the certificate itself is read (X509-SVID section 5.2), and dates, revocation and chain are looked at per
call.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hauberk.certs.bundle import Bundle
from hauberk.certs.errors import ChainError, IdentityError
from hauberk.certs.identity import LeafIdentity, identify
from hauberk.certs.watch import Watch
from hauberk.interceptors.errors import Unidentified

_REMEMBERED = 4096
"""Certificates whose reading is kept. The key is the whole PEM: addresses are used again by others."""
_VERIFIED_FOR = timedelta(seconds=60)
"""A chain is walked again after this long, should an intermediate or an anchor have expired meanwhile."""
_NEVER = datetime.min.replace(tzinfo=UTC)
_TRANSPORT = "transport_security_type"
_TLS = frozenset({"ssl", "tls"})
_TLS_1_3 = [b"TLSv1.3"]
_SSL = [b"ssl"]

AuthContext = Mapping[str, Iterable[bytes]]
"""What core tells of a connection: properties, each with its values."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom we trust now: anchors, and the SPIFFE IDs (as text) that were revoked.

    `withdrawn` are the contracts that one of these served, as long as nobody else does.
    """

    bundle: Bundle
    revoked: frozenset[str] = frozenset()
    withdrawn: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Known:
    """A certificate once read, and the bundle and time it was last verified with."""

    identity: LeafIdentity
    bundle: str = ""
    verified_at: datetime = _NEVER
    trust: Trust | None = None
    """Under which it was let in last, at any time between `since` and `until`."""
    since: datetime = _NEVER
    until: datetime = _NEVER

    def holds(self, trust: Trust, now: datetime) -> bool:
        """Whether all that is asked of it has been asked lately, of this very trust."""
        return self.trust is trust and self.since <= now <= self.until


class PeerCheck:
    """Tells who calls from a connection's auth context, or raises Unidentified with the reason."""

    def __init__(
        self, trust: Watch[Trust], *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._trust = trust
        self._clock = clock
        self._known: dict[bytes, _Known] = {}

    def identify(self, auth_context: AuthContext, *, required: bool = True) -> LeafIdentity | None:
        """The peer, or None if it showed no certificate and none is `required`. One that is shown must hold.

        Raises Unidentified: NO_CERTIFICATE, TLS_VERSION, NOT_A_SPIFFE_ID, SVID_NOT_YET_VALID, SVID_EXPIRED,
        REVOKED, UNTRUSTED_ISSUER.
        """
        if auth_context.get("ssl_tls_version") != _TLS_1_3 or auth_context.get(_TRANSPORT) != _SSL:
            _check_transport(auth_context)
        shown = tuple(auth_context.get("x509_pem_cert", ()))
        if not shown and not required:
            return None
        if len(shown) != 1:
            raise Unidentified(f"{len(shown)} certificates shown, one is needed", reason="NO_CERTIFICATE")
        known = self._known.get(shown[0]) or _Known(_read(shown[0]))
        trust, now = self._trust.value, self._clock()
        if not known.holds(trust, now):
            _check(known, trust, now)
            self._remember(shown[0], known)
        return known.identity

    def now(self) -> datetime:
        """What certificates are held against, aware UTC."""
        return self._clock()

    def _remember(self, pem: bytes, known: _Known) -> None:
        """Keep `known` as the one looked at last, and forget the one whose last look is longest ago."""
        self._known.pop(pem, None)
        if len(self._known) >= _REMEMBERED:
            with contextlib.suppress(RuntimeError, KeyError):  # another thread has just changed them
                del self._known[next(iter(self._known))]
        self._known[pem] = known


def _check_transport(auth_context: AuthContext) -> None:
    if _text(auth_context, _TRANSPORT) not in _TLS:
        raise Unidentified("connection is not tls", reason="NO_CERTIFICATE")
    version = _text(auth_context, "ssl_tls_version")
    if version != "TLSv1.3":
        raise Unidentified(
            f"connection is {version or 'of no known tls version'}, TLSv1.3 is needed",
            reason="TLS_VERSION",
            metadata={"version": version},
        )


def _text(auth_context: AuthContext, key: str) -> str:
    """The one value of `key`, or nothing: two values are as good as none."""
    values = tuple(auth_context.get(key, ()))
    return values[0].decode("ascii", "replace") if len(values) == 1 else ""


def _read(pem: bytes) -> LeafIdentity:
    try:
        return identify(pem)
    except IdentityError as error:
        raise Unidentified(f"certificate names no workload: {error}", reason="NOT_A_SPIFFE_ID") from error


def _check(known: _Known, trust: Trust, now: datetime) -> None:
    """Let it in until something changes, or raise Unidentified."""
    identity = known.identity
    _check_dates(identity, now)
    if trust.revoked and str(identity.spiffe_id) in trust.revoked:
        raise _refused("REVOKED", f"identity was revoked: {identity.spiffe_id}", identity)
    _verify(known, trust.bundle, now)
    known.trust = trust
    known.since = max(identity.not_before, known.verified_at - _VERIFIED_FOR)
    known.until = min(identity.not_after, known.verified_at + _VERIFIED_FOR)


def _check_dates(identity: LeafIdentity, now: datetime) -> None:
    if now < identity.not_before:
        message = f"certificate is not valid before {identity.not_before:%Y-%m-%dT%H:%M:%SZ}, {_here(now)}"
        raise _refused("SVID_NOT_YET_VALID", message, identity)
    if now > identity.not_after:
        message = f"certificate expired at {identity.not_after:%Y-%m-%dT%H:%M:%SZ}, {_here(now)}"
        raise _refused("SVID_EXPIRED", message, identity)


def _here(now: datetime) -> str:
    """So that who is refused can tell a clock that is wrong from a certificate that is old."""
    return f"the clock here says {now:%Y-%m-%dT%H:%M:%SZ}"


def _verify(known: _Known, bundle: Bundle, now: datetime) -> None:
    """Walk the chain if this bundle has not verified it lately."""
    if known.bundle == bundle.fingerprint and abs(now - known.verified_at) < _VERIFIED_FOR:
        return
    try:
        bundle.verify_leaf(known.identity.certificate, now=now)
    except ChainError as error:
        raise _refused("UNTRUSTED_ISSUER", f"certificate is not trusted: {error}", known.identity) from error
    known.bundle, known.verified_at = bundle.fingerprint, now


def _refused(reason: str, message: str, identity: LeafIdentity) -> Unidentified:
    return Unidentified(message, reason=reason, metadata={"caller": str(identity.spiffe_id)})
