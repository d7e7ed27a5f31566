"""The access token that a call brings: verified once, then remembered for as long as it is good.

To verify one takes 90 us (RS256) or 150 us (ES256), a look into what is remembered less than one. On each
call anew: has it ended, are its issuer's keys still good, and is this the connection it is bound to (RFC 8705
section 3). One that fails costs the same work each time it comes, so each peer's failures are rationed.

A token is looked at when its call begins: a stream may outlive it, for as long as the contract lets it.

State is shared by all methods of a process, and by its threads: what every call does to it is one look into a
dictionary, whole under the interpreter's own lock; what changes it takes a lock.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from hmac import compare_digest

from hauberk.interceptors.call import Call
from hauberk.interceptors.demands import TokenRule
from hauberk.interceptors.errors import TokenChecksSpent, TokenRefused, Unidentified
from hauberk.interceptors.issuers import KeyRing
from hauberk.interceptors.token import Token, verify

_log = logging.getLogger(__name__)

REMEMBERED = 4096
"""Tokens; those remembered longest are forgotten first. 3 KB each with half a dozen claims, so 11 MB; the
most that was reached in 4 KiB, with 680 empty objects, is 80 KB.
"""
FAILURES_PER_S = 20
"""Failed checks of one peer, as many at once: 3 ms of CPU a second."""
_PEERS = 4096
_SCHEME = "bearer "


class Tokens:
    """The tokens of these issuers, and what is remembered of them."""

    def __init__(
        self,
        rings: Iterable[KeyRing],
        *,
        clock: Callable[[], float] = time.time,
        failures_per_s: float = FAILURES_PER_S,
    ) -> None:
        """`clock` tells seconds since 1970. Raises ValueError where two issuers have one name."""
        self._rings: dict[str, KeyRing] = {}
        self._clock = clock
        self._known: dict[str, tuple[Token, KeyRing]] = {}
        self._lock = threading.Lock()
        self._failures = _Failures(failures_per_s)
        self._tried_failures = _Failures(failures_per_s)
        """Of tokens that are only tried: who fails there is kept from nothing that is in force."""
        for ring in rings:
            if ring.issuer.name in self._rings:
                raise ValueError(f"two issuers of one name: {ring.issuer.name!r:.99}")
            self._rings[ring.issuer.name] = ring
            ring.on_change(self.forget)

    def forget(self) -> None:
        """Verify every token anew. What is being verified right now is not remembered: see `_learn`."""
        self._known = {}

    def check(self, rule: TokenRule, *, tried: bool = False) -> Callable[[Call], None]:
        """The check that a call brings a good token, bound to its connection if `rule` says so.

        It sets `call.token`, and raises TokenRefused, TokenChecksSpent, or Unidentified where there is none.
        """
        bound, clock = rule.bound, self._clock
        failures = self._tried_failures if tried else self._failures

        def check_token(call: Call) -> None:
            header = call.authorization
            if header is None:
                raise Unidentified("no access token", reason="TOKEN_MISSING")
            token, ring = self._known.get(header) or self._learn(header, call, failures)
            if clock() >= token.expires_at:
                raise self._refused("TOKEN_EXPIRED", call, failures)
            if call.started >= ring.good_until:
                raise self._refused("TOKEN_KEYS_STALE", call, failures)
            if bound and (call.peer is None or not compare_digest(token.thumbprint, call.peer.x5t_s256)):
                raise self._refused("TOKEN_OF_ANOTHER_CERTIFICATE", call, failures)
            call.token = token

        return check_token

    def _learn(self, header: str, call: Call, failures: "_Failures | None" = None) -> tuple[Token, KeyRing]:
        """Verify the token and remember it.

        It is remembered among what was known before its key was looked up: if the keys change meanwhile, that
        is thrown away.
        """
        known, failures = self._known, failures or self._failures
        failures.check(call)
        if header[: len(_SCHEME)].lower() != _SCHEME:
            raise self._refused("TOKEN_SCHEME", call, failures)
        try:
            token = verify(header[len(_SCHEME) :], self._rings, now=self._clock())
        except TokenRefused as refusal:
            raise self._refused(refusal.found, call, failures) from None
        learnt = token, self._rings[token.issuer]
        with self._lock:
            if len(known) >= REMEMBERED:
                del known[next(iter(known))]
            known[header] = learnt
        return learnt

    def _refused(self, found: str, call: Call, failures: "_Failures") -> TokenRefused:
        """The refusal for `found`, told to our log too. Before a peer can fill that: TokenChecksSpent."""
        failures.check(call)
        failures.count(call)
        if failures is self._failures:  # what is only tried refuses nothing, and stands in the call's record
            _log.info("access token refused: %s, %s, trace %s", found, call.method, call.trace.trace_id)
        return TokenRefused(found)


class _Failures:
    """How many checks have failed of late, by peer: a leaky bucket (GCRA), empty again after a second."""

    def __init__(self, per_s: float) -> None:
        self._each_s = 1 / per_s
        self._full_s = 1 - self._each_s + 1e-6  # more than steps of it are rounded by
        self._empty_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def check(self, call: Call) -> None:
        """Raise TokenChecksSpent if this peer has to wait. Not UNAUTHENTICATED: its token, which nobody has
        looked at, may be good, and is to be brought again, not thrown away.
        """
        if not self._empty_at:
            return
        wait_s = self._empty_at.get(_peer(call), 0.0) - call.started - self._full_s
        if wait_s > 0:
            raise TokenChecksSpent(
                "too many access tokens of this peer were refused; try again in a second",
                retry_after_s=wait_s,
            )

    def count(self, call: Call) -> None:
        peer = _peer(call)
        with self._lock:
            empty_at = max(self._empty_at.pop(peer, 0.0), call.started) + self._each_s
            if len(self._empty_at) >= _PEERS:
                del self._empty_at[next(iter(self._empty_at))]
            self._empty_at[peer] = min(empty_at, call.started + 1.0)


def _peer(call: Call) -> str:
    return call.slot or call.address
