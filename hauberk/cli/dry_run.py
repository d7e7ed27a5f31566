"""A call that is never made, for checks to judge: with the caller's own certificate where it is at hand."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.descriptor import Descriptor

from hauberk.certs.authority import Authority
from hauberk.certs.clock import utc_now
from hauberk.certs.credentials import Credentials
from hauberk.certs.errors import CertsError
from hauberk.certs.identity import SpiffeId
from hauberk.certs.store import CredentialStore
from hauberk.certs.watch import Watch
from hauberk.cli.errors import CommandFailed
from hauberk.cli.identity import store_of
from hauberk.cli.mesh_file import MeshFile
from hauberk.cli.state import State, flat
from hauberk.interceptors.call import Call
from hauberk.interceptors.in_flight import InFlight
from hauberk.interceptors.peer import PeerCheck, Trust
from hauberk.interceptors.pipeline import Pipeline
from hauberk.interceptors.policy import Policy
from hauberk.interceptors.quota import Quotas
from hauberk.interceptors.token_check import Tokens
from hauberk.interceptors.tracing import Metadata, TraceContext
from hauberk.membership import Membership


@dataclass(frozen=True, slots=True)
class Shown:
    """The certificate that a caller shows, and whom its server trusts."""

    credentials: Credentials
    trust: Trust
    file: Path | None
    """Where it lies; None: it was made for this, as the mesh would make one."""

    def pipeline(self, policy: Policy, tokens: Tokens | None, request: Descriptor | None) -> Pipeline:
        """The checks of `policy` as a server compiles them, on books of their own."""
        return Pipeline.of(
            policy,
            peer_check=PeerCheck(Watch(self.trust)),
            in_flight=InFlight(),
            quotas=Quotas(),
            trust_domain=self.credentials.svid.spiffe_id.trust_domain,
            tokens=tokens,
            request=request,
        )

    def call(self, policy: Policy, token: str | None, deadline_s: float | None) -> Call:
        """A call of that method with this certificate."""
        metadata: Metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        return Call(
            method=policy.method,
            policy=policy,
            metadata=metadata,
            trace=TraceContext.arriving(metadata, 0.0),
            started=time.monotonic(),
            time_left_s=deadline_s,
            auth_context={
                "transport_security_type": [b"ssl"],
                "ssl_tls_version": [b"TLSv1.3"],
                "x509_pem_cert": [self.credentials.svid.leaf.public_bytes(Encoding.PEM)],
            },
            address="ipv4:127.0.0.1:0",
        )


def shown_by(state: State, mesh: MeshFile, name: str) -> list[Shown]:
    """Each certificate of `name` on this machine; where there is none, one made for this.

    Raises CommandFailed for a name that nobody can have.
    """
    try:
        caller = SpiffeId.of(mesh.trust_domain, name)
        revoked = _revoked(state)
        found = [
            Shown(credentials, Trust(credentials.bundle, revoked), store.chain_path)
            for store in _stores(state, name)
            if (credentials := _loaded(store)) and credentials.svid.spiffe_id == caller
        ]
        return found or [_made(caller, revoked)]
    except CertsError as error:
        raise CommandFailed(
            f"nobody can call as {name!r:.99}: {error}", "who is there: hauberk ps"
        ) from error


def _stores(state: State, name: str) -> Iterator[CredentialStore]:
    yield store_of(state, name)
    for folder in sorted((state.folder / "workloads").glob(f"{flat(name)}-*")):
        yield CredentialStore(folder)


def _loaded(store: CredentialStore) -> Credentials | None:
    try:
        return store.load()
    except CertsError:
        return None


def _revoked(state: State) -> frozenset[str]:
    """The names refused, as the operator of the mesh heard of them last."""
    known = Membership.load(state.operator)
    return known.revoked if known else frozenset()


def _made(caller: SpiffeId, revoked: frozenset[str]) -> Shown:
    now = utc_now()
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority.create(Path(folder) / "ca", caller.trust_domain, now=now - timedelta(minutes=1))
        svid = authority.issue(caller, lifetime=timedelta(hours=1), now=now)
        return Shown(Credentials(svid, authority.bundle), Trust(authority.bundle, revoked), None)
