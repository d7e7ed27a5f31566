"""One SVID with one bundle, replaced whole; and what gRPC is given of them. The only file of certs that
knows grpc.

gRPC core reads a server's certificate at each handshake through a callback, on a thread of its own, one
handshake at a time: the callback must only compare a number and hand over what is ready. A channel keeps
what it was made of.
"""

from collections.abc import Callable
from dataclasses import dataclass

import grpc

from hauberk.certs.bundle import Bundle
from hauberk.certs.svid import Svid
from hauberk.certs.watch import Watch


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are and whom we trust, at one moment."""

    svid: Svid
    bundle: Bundle

    def certificate_configuration(self) -> grpc.ServerCertificateConfiguration:
        """What a server presents and whom it lets in."""
        return grpc.ssl_server_certificate_configuration(
            [(self.svid.key_pem, self.svid.chain_pem)], root_certificates=self.bundle.pem()
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """What a direct channel presents and whom it trusts; it keeps them, so re-dial after a rotation."""
        return grpc.ssl_channel_credentials(self.bundle.pem(), self.svid.key_pem, self.svid.chain_pem)


def server_credentials(watch: Watch[Credentials]) -> grpc.ServerCredentials:
    """TLS for one port of one server: client certificates demanded, ours always the latest of `watch`.

    For one port only: core asks each port's callback once, and a shared one would leave the others behind.
    """
    return _dynamic(watch, Credentials.certificate_configuration, require_client_authentication=True)


def anonymous_server_credentials(watch: Watch[Credentials]) -> grpc.ServerCredentials:
    """TLS that asks clients for no certificate: for the enrolment port, where they come for their first."""
    return _dynamic(watch, _anonymous, require_client_authentication=False)


def pinned_channel_credentials(bundle: Bundle) -> grpc.ChannelCredentials:
    """TLS for a channel that has no certificate yet and trusts `bundle` alone: for enrolment."""
    return grpc.ssl_channel_credentials(bundle.pem())


def _anonymous(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(credentials.svid.key_pem, credentials.svid.chain_pem)])


def _dynamic(
    watch: Watch[Credentials],
    configure: Callable[[Credentials], grpc.ServerCertificateConfiguration],
    *,
    require_client_authentication: bool,
) -> grpc.ServerCredentials:
    served, credentials = watch.versioned

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        version, credentials = watch.versioned
        if version == served:
            return None
        configuration = configure(credentials)
        served = version
        return configuration

    return grpc.dynamic_ssl_server_credentials(
        configure(credentials),
        fetch,  # type: ignore[arg-type]  # the stub does not know that None means "as before"
        require_client_authentication=require_client_authentication,
    )
