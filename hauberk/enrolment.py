"""How a process asks the control plane for certificates: the first with a join token, the next with the last.

The key never leaves the process; the request names nobody (the token, or the certificate, does).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from hauberk.certs import keys
from hauberk.certs.bundle import Bundle
from hauberk.certs.clock import spelled
from hauberk.certs.credentials import Credentials, pinned_channel_credentials
from hauberk.certs.errors import CertsError, SvidError
from hauberk.certs.identity import SCHEME, SpiffeId
from hauberk.certs.svid import Svid
from hauberk.errors import JoinFailed, SettingsError
from hauberk.interceptors.peer import Trust
from hauberk.interceptors.uninstrumented import aio_secure_channel
from hauberk.membership import Membership
from hauberk.options import CHANNEL
from hauberk.protos.hauberk.control.v1 import enrolment_pb2, enrolment_pb2_grpc
from hauberk.settings import Settings

CALL_S = 10.0
CONTROL_NAME = "control"


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What enrolment gives: who we are, whom to trust, where the control plane is."""

    credentials: Credentials
    trust: Trust
    membership: Membership


def pinned_roots(path: Path, trust_domain: str | None = None) -> Bundle:
    """The roots in the PEM file `path`, which name their trust domain themselves.

    Raises SettingsError if they cannot be used, or are not of `trust_domain` where that is given.
    """
    try:
        pem = path.read_bytes()
        domains = {_trust_domain(root) for root in x509.load_pem_x509_certificates(pem)}
        if len(domains) != 1:
            raise SettingsError(
                f"HAUBERK_ROOTS: {path} holds roots of {len(domains)} trust domains, not of one"
            )
        domain = domains.pop()
        bundle = Bundle.parse(domain, pem)
    except OSError as error:
        raise SettingsError(f"HAUBERK_ROOTS: cannot read {path}: {error.strerror}") from error
    except (ValueError, CertsError, x509.ExtensionNotFound) as error:
        raise SettingsError(f"HAUBERK_ROOTS: {path} holds no usable roots: {error}") from error
    if trust_domain not in (None, domain):
        raise SettingsError(
            f"HAUBERK_ROOTS: {path} is of {domain}, but HAUBERK_TRUST_DOMAIN is {trust_domain}"
        )
    return bundle


async def enrol(target: str, token: str, *, roots: Bundle, now: Callable[[], datetime]) -> Admission:
    """Trade `token` for an SVID at `target` (host:port), which must prove by `roots` to be the control plane.

    Raises grpc.aio.AioRpcError as the call ended, CertsError if what came is of no use.
    """
    key = keys.generate()
    (trust_domain,) = roots.anchors
    named = ("grpc.ssl_target_name_override", SpiffeId.of(trust_domain, CONTROL_NAME).dns_name)
    request = enrolment_pb2.EnrolRequest(join_token=token, certificate_request=keys.csr(key))
    async with aio_secure_channel(
        target, pinned_channel_credentials(roots), options=[*CHANNEL, named]
    ) as channel:
        stub: Any = enrolment_pb2_grpc.EnrolmentStub(channel)
        response = await stub.Enrol(request, timeout=CALL_S)
    trust = trust_of(response.trust)
    return Admission(
        credentials=_credentials(response.certificate, keys.to_pem(key), trust, now()),
        trust=trust,
        membership=Membership(
            control_targets=tuple(response.control_targets),
            control_id=SpiffeId.parse(response.control_id),
            revoked=trust.revoked,
        ),
    )


async def renew(channel: grpc.aio.Channel, *, now: Callable[[], datetime]) -> tuple[Credentials, Trust]:
    """A fresh SVID over `channel`, which shows the one we have. Raises as `enrol`."""
    key = keys.generate()
    stub: Any = enrolment_pb2_grpc.IdentityStub(channel)
    request = enrolment_pb2.RenewRequest(certificate_request=keys.csr(key))
    response = await stub.Renew(request, timeout=CALL_S)
    trust = trust_of(response.trust)
    return _credentials(response.certificate, keys.to_pem(key), trust, now()), trust


def trust_of(message: enrolment_pb2.Trust) -> Trust:
    """Whom the control plane says to trust. Raises CertsError if that is nobody, or cannot be read."""
    bundle = Bundle.parse(message.trust_domain, message.roots_pem, message.intermediates_pem)
    withdrawn = frozenset(message.withdrawn_contracts)
    return Trust(bundle=bundle, revoked=frozenset(message.revoked), withdrawn=withdrawn)


def refusal(error: grpc.aio.AioRpcError, settings: Settings) -> JoinFailed:
    """What a failed enrolment means for whoever started this process."""
    said, target, name = error.details() or "no details", settings.enrolment, settings.name
    match error.code():
        case grpc.StatusCode.UNAUTHENTICATED:
            told = f"join token refused at {target}: {said}; make a new one: hauberk invite {name}"
        case grpc.StatusCode.PERMISSION_DENIED:
            told = f"{name} may not join at {target}: {said}"
        case _ if is_impostor(error):
            told = (
                f"{target} cannot prove by {settings.roots} (HAUBERK_ROOTS) to be the control plane: "
                f"one of the two is of another mesh, or a clock is wrong: {said}"
            )
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            told = (
                f"no enrolment at {target} (HAUBERK_ENROLMENT): {said}; is the control plane running there?"
            )
        case code:
            told = f"enrolment at {target} failed: {code.name}: {said}"
    return JoinFailed(told)


def is_impostor(error: grpc.aio.AioRpcError) -> bool:
    """Whether whoever answered could not prove to be the control plane: to ask again is no use."""
    said = error.details() or ""
    return "CERTIFICATE_VERIFY_FAILED" in said or "Hostname Verification" in said


def _credentials(
    certificate: enrolment_pb2.Certificate, key_pem: bytes, trust: Trust, now: datetime
) -> Credentials:
    svid = Svid.parse(certificate.chain_pem, key_pem)
    try:
        svid.check_dates(now)
    except SvidError as error:
        apart = spelled(abs(now - svid.issued_at))
        raise SvidError(
            f"{error}: the clocks of this machine and of the control plane are about {apart} apart"
        ) from error
    trust.bundle.verify(svid.chain, now=now)
    return Credentials(svid, trust.bundle)


def _trust_domain(root: x509.Certificate) -> str:
    names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uri.removeprefix(SCHEME)
