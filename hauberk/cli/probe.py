"""Finds out why calls to one server fail: gRPC gives a client no reason when a handshake does.

Python's own TLS does the handshake and trusts everybody; then the certificate is judged by certs.bundle, and
the first HTTP/2 frame shows whether the server let us in (TLS 1.3 judges the client after the client is
done).
"""

import contextlib
import socket
import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from hauberk.certs.bundle import Bundle
from hauberk.certs.credentials import Credentials
from hauberk.certs.errors import ChainError, IdentityError
from hauberk.certs.identity import LeafIdentity, SpiffeId, identify_certificate
from hauberk.hints import self_check

WAIT_S = 5.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""RFC 9113 section 3.4: the connection preface and an empty SETTINGS frame."""
_SETTINGS = 4
_FRAME_HEAD = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is the matter with one server; no `cause`: nothing."""

    target: str
    cause: str = ""
    remedy: str = ""
    server: str = ""
    """The SPIFFE ID it shows; empty if it shows none."""
    tls: str = ""

    @property
    def ok(self) -> bool:
        return not self.cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What we show for ourselves: credentials, and the files they lie in."""

    credentials: Credentials
    chain_path: Path
    key_path: Path


class _Cause(Exception):
    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.remedy = remedy


def probe(target: str, shown: Shown, *, expected: SpiffeId | None, now: datetime) -> Verdict:
    """Connect to host:port as a client of the mesh would, and judge each step. Blocks for seconds."""
    server, tls = "", ""
    try:
        host, port = _split(target)
        with _connected(host, port) as plain, _handshaken(plain, host, port, shown, expected) as secured:
            tls = secured.version() or ""
            leaf = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
            server = _claimed(leaf)
            _check_server(leaf, shown.credentials.bundle, expected, now)
            if tls != "TLSv1.3":
                raise _Cause(
                    f"the server speaks {tls}, and the mesh speaks TLS 1.3 only",
                    "start it with GRPC_SSL_CIPHER_SUITES=ECDHE-RSA-AES256-GCM-SHA384, as `hauberk up` does",
                )
            _check_admitted(secured, shown.credentials, now)
    except _Cause as cause:
        return Verdict(target=target, cause=str(cause), remedy=cause.remedy, server=server, tls=tls)
    return Verdict(target=target, server=server, tls=tls)


def _split(target: str) -> tuple[str, int]:
    host, colon, port = target.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        raise _Cause(f"not host:port: {target!r:.99}", "write it like 127.0.0.1:50051, or name a workload")
    return host.strip("[]"), int(port)


def _connected(host: str, port: int) -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout=WAIT_S)
    except ConnectionRefusedError:
        raise _Cause("nothing listens there", "start it; where it should be: hauberk ps") from None
    except socket.gaierror:
        raise _Cause(
            f"no such host: {host!r:.99}", "correct the name, or ask whoever runs your DNS"
        ) from None
    except OSError as error:
        said = "no answer" if isinstance(error, TimeoutError) else str(error.strerror or error).lower()
        raise _Cause(
            f"it cannot be reached: {said}", "look at the network between: routes, firewalls"
        ) from None


def _handshaken(
    plain: socket.socket, host: str, port: int, shown: Shown, expected: SpiffeId | None
) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the certificate is judged below, with the reason
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(shown.chain_path, shown.key_path)
    try:
        return context.wrap_socket(plain, server_hostname=expected.dns_name if expected else None)
    except (ssl.SSLError, OSError) as error:
        if _speaks_plaintext(host, port):
            raise _Cause(
                "the server speaks plaintext, not TLS",
                "make it a server of the mesh: mesh.server(); or correct the address: hauberk ps",
            ) from None
        if isinstance(error, ssl.SSLError) and error.reason in _OLD_TLS:
            raise _Cause("the server speaks no TLS newer than 1.1", "use TLS 1.3 there") from None
        said = getattr(error, "reason", None) or error.strerror or str(error)
        raise _Cause(
            f"the server ends the TLS handshake: {str(said).lower().replace('_', ' ')}",
            "read the server's own log; is it a gRPC server of this mesh?",
        ) from None


_OLD_TLS = {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "WRONG_SSL_VERSION"}


def _speaks_plaintext(host: str, port: int) -> bool:
    """Whether it answers HTTP/2 without TLS with its SETTINGS, or HTTP/1 with an error."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=WAIT_S) as plain:
        plain.sendall(_PREFACE)
        head = _received(plain)
        return head[3:4] == bytes([_SETTINGS]) or head.startswith(b"HTTP/")
    return False


def _claimed(leaf: x509.Certificate) -> str:
    with contextlib.suppress(IdentityError):
        return str(identify_certificate(leaf).spiffe_id)
    return ""


def _check_server(
    leaf: x509.Certificate, bundle: Bundle, expected: SpiffeId | None, now: datetime
) -> LeafIdentity:
    try:
        identity = identify_certificate(leaf)
    except IdentityError as error:
        raise _Cause(
            f"the server's certificate is no SPIFFE identity: {error}",
            "whatever listens there is not of the mesh: correct the address, hauberk ps",
        ) from None
    if now > identity.not_after:
        raise _Cause(
            f"the server's certificate expired at {identity.not_after:%Y-%m-%dT%H:%M:%SZ}",
            f"restart {identity.spiffe_id.name}, and read its log for why it could not renew",
        )
    if now < identity.not_before:
        raise _Cause(
            f"the server's certificate is not valid before {identity.not_before:%Y-%m-%dT%H:%M:%SZ}",
            "set the clocks of both machines",
        )
    try:
        bundle.verify_leaf(leaf, now=now)
    except ChainError as error:
        raise _Cause(
            f"the server's certificate is of another CA: {error}",
            "it belongs to another mesh, or lags behind a root roll: hauberk ca show, and restart it",
        ) from None
    if expected is not None and identity.spiffe_id != expected:
        raise _Cause(
            f"the server is {identity.spiffe_id}, not {expected}",
            "correct the address: hauberk ps; if somebody took the port, stop them",
        )
    return identity


def _check_admitted(secured: ssl.SSLSocket, credentials: Credentials, now: datetime) -> None:
    """A server of gRPC sends its SETTINGS as soon as it has let us in; else it ends the connection."""
    alert = ""
    try:
        secured.sendall(_PREFACE)
        head = _received(secured)
    except ssl.SSLError as error:
        head, alert = b"", (error.reason or "").lower().replace("_", " ")
    except OSError:
        head = b""
    if head[3:4] == bytes([_SETTINGS]):
        return
    if head:
        raise _Cause("the server speaks TLS but no HTTP/2", "it is no gRPC server: correct the address")
    why = self_check(credentials, now) or alert
    ours = str(credentials.svid.spiffe_id)
    if not why:
        why = "it is valid for us, so the server trusts another CA, or none of ours any more"
    raise _Cause(
        f"the server refuses our certificate, {ours}: {why}",
        "if ours expired: hauberk up; else compare `hauberk ca show` on both sides, restart the server",
    )


def _received(connection: socket.socket) -> bytes:
    """The head of the first frame, or less if the connection ends."""
    head = b""
    while len(head) < _FRAME_HEAD and (more := connection.recv(_FRAME_HEAD - len(head))):
        head += more
    return head
