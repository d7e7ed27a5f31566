"""Who gets a certificate, who does not, and what each is told."""

import asyncio
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from hauberk.certs import keys
from hauberk.certs.bundle import Bundle
from hauberk.certs.errors import ChainError
from hauberk.certs.svid import Svid
from hauberk.protos.hauberk.control.v1 import admin_pb2, enrolment_pb2, enrolment_pb2_grpc
from tests.control.core_mesh import CoreMesh, core_mesh, reason_of, spiffe

UNKNOWN = "hbk1." + "A" * 43


def bare() -> bytes:
    return keys.csr(keys.generate())


def asking_for(name: x509.GeneralName) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    wish = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False)
    return wish.sign(keys.generate(), hashes.SHA256()).public_bytes(Encoding.DER)


def of_key(key: Any) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code(), reason_of(refused.value)


async def test_a_token_buys_an_svid_of_its_name(mesh: CoreMesh) -> None:
    admission = await mesh.enrol(await mesh.token("prod/orders"))
    svid = admission.credentials.svid
    assert svid.spiffe_id == spiffe("prod/orders")
    assert admission.trust.bundle.verify(svid.chain, now=mesh.clock()).spiffe_id == svid.spiffe_id
    assert admission.membership.control_id == spiffe("control")
    assert admission.membership.control_targets == (mesh.plane.mesh.address,)
    assert timedelta(minutes=59) < svid.lifetime <= timedelta(hours=1)


async def test_a_used_token_is_refused(mesh: CoreMesh) -> None:
    token = await mesh.token("orders")
    await mesh.enrol(token)
    assert await refusal(mesh.enrol(token)) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_SPENT")


async def test_of_many_that_race_for_one_token_one_wins(mesh: CoreMesh) -> None:
    token = await mesh.token("orders")
    results = await asyncio.gather(*(mesh.enrol(token) for _ in range(8)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert len(refused) == 7
    assert {reason_of(error) for error in refused} == {"TOKEN_SPENT"}


async def test_an_expired_token_is_refused(mesh: CoreMesh) -> None:
    token = await mesh.token("orders")
    mesh.clock.ahead = timedelta(minutes=10)
    assert await refusal(mesh.enrol(token)) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")


async def test_an_unknown_token_is_refused(mesh: CoreMesh) -> None:
    assert await refusal(mesh.enrol(UNKNOWN)) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_UNKNOWN")


@pytest.mark.parametrize(
    "text", ["", "hbk1.", "hbk1." + "A" * 44, "hbk2." + "A" * 43, "\0", "hbk1." + "é" * 43]
)
async def test_what_is_no_token_is_refused(mesh: CoreMesh, text: str) -> None:
    assert await refusal(mesh.enrol(text)) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MALFORMED")


@pytest.mark.parametrize(
    "request_der",
    [
        pytest.param(
            asking_for(x509.UniformResourceIdentifier("spiffe://shop.test/payments")), id="other name"
        ),
        pytest.param(asking_for(x509.UniformResourceIdentifier("spiffe://shop.test/orders")), id="own name"),
        pytest.param(asking_for(x509.DNSName("control.shop.test")), id="dns name"),
        pytest.param(of_key(ec.generate_private_key(ec.SECP192R1())), id="weak curve"),
        pytest.param(of_key(rsa.generate_private_key(65537, 1024)), id="short rsa"),
        pytest.param(bare()[:-1] + b"\0", id="another's signature"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"x" * 9000, id="too long"),
    ],
)
async def test_a_request_that_is_not_bare_is_refused_and_costs_no_token(
    mesh: CoreMesh, request_der: bytes
) -> None:
    token = await mesh.token("orders")
    request = enrolment_pb2.EnrolRequest(join_token=token, certificate_request=request_der)
    assert await refusal(mesh.stranger().Enrol(request)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "CSR_REFUSED",
    )
    assert (await mesh.enrol(token)).credentials.svid.spiffe_id == spiffe("orders")


async def test_a_revoked_name_cannot_enrol_with_a_token_it_still_has(mesh: CoreMesh) -> None:
    token = await mesh.token("orders")
    operator = await mesh.operator()
    await operator.admin.Revoke(admin_pb2.RevokeRequest(name="orders"))
    assert await refusal(mesh.enrol(token)) == (grpc.StatusCode.PERMISSION_DENIED, "REVOKED")


async def test_refusals_are_logged_and_never_with_the_token(
    mesh: CoreMesh, caplog: pytest.LogCaptureFixture
) -> None:
    token = await mesh.token("orders")
    await mesh.enrol(token)
    with caplog.at_level(logging.INFO):
        await refusal(mesh.enrol(token))
        await refusal(mesh.enrol(UNKNOWN))
    assert "enrolment from 127.0.0.1 refused: TOKEN_SPENT" in caplog.text
    assert token[5:] not in caplog.text
    assert UNKNOWN not in caplog.text


async def test_an_address_that_fails_too_often_has_to_wait(mesh: CoreMesh) -> None:
    stranger = mesh.stranger()
    guess = enrolment_pb2.EnrolRequest(join_token=UNKNOWN, certificate_request=bare())
    reasons = [(await refusal(stranger.Enrol(guess)))[1] for _ in range(24)]
    assert reasons[:20] == ["TOKEN_UNKNOWN"] * 20
    assert reasons[-1] == "TOO_MANY_FAILURES"
    assert (await refusal(stranger.Enrol(guess)))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_renewal_gives_the_same_name_a_later_end(mesh: CoreMesh) -> None:
    orders = await mesh.join("orders")
    mesh.clock.ahead = timedelta(minutes=20)
    key = keys.generate()
    request = enrolment_pb2.RenewRequest(certificate_request=keys.csr(key))
    response = await orders.identity.Renew(request)
    svid = Svid.parse(response.certificate.chain_pem, keys.to_pem(key))
    assert svid.spiffe_id == spiffe("orders")
    assert svid.expires_at > orders.credentials.svid.expires_at + timedelta(minutes=19)


async def test_renewal_refuses_a_request_for_another_name(mesh: CoreMesh) -> None:
    orders = await mesh.join("orders")
    wish = asking_for(x509.UniformResourceIdentifier("spiffe://shop.test/payments"))
    call = orders.identity.Renew(enrolment_pb2.RenewRequest(certificate_request=wish))
    assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, "CSR_REFUSED")


async def test_a_revoked_name_cannot_renew(mesh: CoreMesh) -> None:
    orders, operator = await mesh.join("orders"), await mesh.operator()
    await operator.admin.Revoke(admin_pb2.RevokeRequest(name="orders"))
    call = orders.identity.Renew(enrolment_pb2.RenewRequest(certificate_request=bare()))
    assert await refusal(call) == (grpc.StatusCode.UNAUTHENTICATED, "REVOKED")


async def test_nobody_is_given_the_name_of_the_control_plane(mesh: CoreMesh) -> None:
    impostor = mesh.as_(mesh.plane.source.credentials.value)
    call = impostor.identity.Renew(enrolment_pb2.RenewRequest(certificate_request=bare()))
    assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, "NAME_REFUSED")


async def test_enrolment_is_not_served_where_certificates_are_asked_for(mesh: CoreMesh) -> None:
    orders = await mesh.join("orders")
    call: Any = enrolment_pb2_grpc.EnrolmentStub(orders.channel)
    request = enrolment_pb2.EnrolRequest(join_token=UNKNOWN, certificate_request=bare())
    assert (await refusal(call.Enrol(request)))[0] is grpc.StatusCode.UNIMPLEMENTED


async def test_every_certificate_is_remembered_before_it_leaves(mesh: CoreMesh) -> None:
    orders = await mesh.join("orders")
    now = mesh.clock()
    (alive,) = mesh.plane.store.holders(issued_before=now, now=now)
    assert (alive.spiffe_id, alive.certificates) == (spiffe("orders"), 1)
    assert alive.until == orders.credentials.svid.expires_at


async def test_a_store_that_fails_keeps_the_certificate_here(mesh: CoreMesh) -> None:
    """And a token that was not spent can be used once the store is back."""
    token = await mesh.token("orders")
    with mesh.plane.store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE svids RENAME TO lost")
    assert await refusal(mesh.enrol(token)) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    with mesh.plane.store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE lost RENAME TO svids")
    assert (await mesh.enrol(token)).credentials.svid.spiffe_id == spiffe("orders")


async def test_the_authority_caps_a_lifetime_to_its_own_end(tmp_path: Path) -> None:
    async with core_mesh(tmp_path / "state", svid_lifetime="1d") as mesh:
        mesh.clock.ahead = timedelta(days=3)
        certificate = await mesh.plane._issuer().issue(bare(), spiffe("orders"), lambda leaf, now: None)
    ends = certificate.expires_at.ToDatetime(mesh.clock().tzinfo)
    assert ends - mesh.clock() > timedelta(hours=23)


async def test_trust_of_another_mesh_accepts_none_of_ours(mesh: CoreMesh, tmp_path: Path) -> None:
    orders = await mesh.join("orders")
    async with core_mesh(tmp_path / "other") as other:
        foreign: Bundle = other.plane.source.trust.value.bundle
    with pytest.raises(ChainError):
        foreign.verify(orders.credentials.svid.chain, now=mesh.clock())
