"""`hauberk call`: any method of the mesh, in any of the four shapes, with JSON for messages."""

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from typing import Any

import click
import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from hauberk.certs.identity import SpiffeId
from hauberk.cli.described import described_method
from hauberk.cli.dial import CALL_S, control_plane, dialled, error_infos, failure, operator_credentials, told
from hauberk.cli.errors import CommandFailed
from hauberk.cli.identity import credentials_of
from hauberk.cli.mesh_file import OPERATOR
from hauberk.cli.options import json_option, mesh_option
from hauberk.cli.ps import replicas
from hauberk.cli.state import State
from hauberk.interceptors.scrubbing import redacted
from hauberk.protos.hauberk.control.v1 import admin_pb2

CONTROL_CONTRACTS = "hauberk.control.v1."
BUILT_IN = "grpc."
"""Health and reflection: every server has them, so they need --to."""


@click.command(
    "call",
    epilog='Example:  hauberk call shop.orders.v1.Orders/GetOrder --as gateway -d \'{"order_id": "7f3a"}\'',
)
@click.argument("method", metavar="SERVICE/METHOD")
@click.option("-d", "data", metavar="JSON", help="The message; several in a row for a stream; @ reads stdin.")
@click.option("--as", "name", default=OPERATOR, show_default=True, metavar="NAME", help="Who calls.")
@click.option("--to", "workload", metavar="NAME", help="Which workload, where several serve it (health).")
@click.option("--deadline", default=10.0, show_default=True, help="Seconds the call may take; 0: any time.")
@mesh_option
@json_option
def command(
    method: str,
    data: str | None,
    name: str,
    workload: str | None,
    deadline: float,
    state: State,
    as_json: bool,
) -> None:
    """Call a method in the mesh.

    What its messages look like is asked of the server, by reflection, as the operator; the call itself is
    made in the name given with --as, over mutual TLS, straight to a replica that serves the contract.
    """
    service, _, short = method.lstrip("/").partition("/")
    if not service or not short:
        raise CommandFailed(f"not SERVICE/METHOD: {method!r:.99}", "write it as in: hauberk call --help")
    texts = _split(sys.stdin.read() if data == "@" else data)
    try:
        asyncio.run(_call(state, service, short, texts, name, workload, deadline or None, as_json))
    except grpc.aio.AioRpcError as error:
        if as_json:
            click.echo(json.dumps(_error(error), ensure_ascii=False))
            raise SystemExit(1) from None
        raise failure(error, service) from None


async def _call(
    state: State,
    service: str,
    short: str,
    texts: list[str],
    name: str,
    workload: str | None,
    deadline_s: float | None,
    as_json: bool,
) -> None:
    server, address = await _who_serves(state, service, workload)
    with told(f"{server.name} at {address}"):
        async with dialled(address, server, operator_credentials(state)) as channel:
            method = await described_method(channel, service, short)
    requests = _messages(method, texts)
    async with dialled(address, server, await credentials_of(state, name)) as channel:
        try:
            async for response in _responses(channel, method, requests, deadline_s):
                click.echo(_text(response, method, as_json))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.PERMISSION_DENIED or as_json:
                raise
            raise await _forbidden(state, service, short, name, error) from None


async def _who_serves(state: State, service: str, workload: str | None) -> tuple[SpiffeId, str]:
    """A replica that serves the contract, any of them."""
    known = await replicas(state)
    if workload is None and service.startswith(BUILT_IN):
        raise CommandFailed(f"every workload serves {service}", "say which: --to NAME")
    if workload is None and service.startswith(CONTROL_CONTRACTS):
        workload = "control"
    serving = [
        row
        for row in known
        if row["status"] == "serving"
        and (row["workload"] == workload if workload else service in row["contracts"])
    ]
    if not serving:
        raise CommandFailed(
            f"nobody serves {service} now" if workload is None else f"no replica of {workload} serves now",
            "who does: hauberk ps; what there is: hauberk policy show",
        )
    chosen = random.choice(serving)  # noqa: S311 - spreads load, keeps no secret
    return SpiffeId.parse(chosen["spiffe_id"]), chosen["address"]


async def _responses(
    channel: grpc.aio.Channel, method: MethodDescriptor, requests: list[Message], deadline_s: float | None
) -> AsyncIterator[Message]:
    shape = (
        "stream" if method.client_streaming else "unary",
        "stream" if method.server_streaming else "unary",
    )
    multicallable = getattr(channel, "_".join(shape))(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    call = multicallable(iter(requests) if method.client_streaming else requests[0], timeout=deadline_s)
    if method.server_streaming:
        async for response in call:
            yield response
    else:
        yield await call


def _split(text: str | None) -> list[str]:
    """The JSON objects in `text`, which stand in a row or each on its lines."""
    rest, texts = (text or "").strip(), []
    while rest:
        try:
            _, end = json.JSONDecoder().raw_decode(rest)
        except ValueError as error:
            raise CommandFailed(f"-d is not JSON: {error}", 'quote it: -d \'{"sku": "A"}\'') from None
        texts.append(rest[:end])
        rest = rest[end:].strip()
    return texts


def _messages(method: MethodDescriptor, texts: list[str]) -> list[Message]:
    if not method.client_streaming and len(texts) > 1:
        raise CommandFailed(f"{method.full_name} takes one message, -d has {len(texts)}", "leave one")
    if not method.client_streaming and not texts:
        texts = ["{}"]
    kind = message_factory.GetMessageClass(method.input_type)
    try:
        return [json_format.Parse(text, kind(), descriptor_pool=_pool(method)) for text in texts]
    except json_format.ParseError as error:
        fields = ", ".join(method.input_type.fields_by_name)
        said = str(error).partition("\n")[0]
        raise CommandFailed(f"-d is no {method.input_type.full_name}: {said}", f"fields: {fields}") from None


def _text(message: Message, method: MethodDescriptor, as_json: bool) -> str:
    return json_format.MessageToJson(
        redacted(message), indent=None if as_json else 2, ensure_ascii=False, descriptor_pool=_pool(method)
    )


def _pool(method: MethodDescriptor) -> Any:
    return method.containing_service.file.pool


async def _forbidden(
    state: State, service: str, short: str, name: str, error: grpc.aio.AioRpcError
) -> CommandFailed:
    """A refusal, with the callers that are admitted."""
    async with control_plane(state) as admin:
        request = admin_pb2.ListPoliciesRequest(filter=f"/{service}/{short}")
        answer = await admin.ListPolicies(request, timeout=CALL_S)
    callers = sorted({caller for method in answer.methods for caller in method.policy.callers})
    if not callers:
        return failure(error, name)
    return CommandFailed(
        f"{error.code().name}: {name} may not call {service}/{short}",
        f"it admits {', '.join(callers)}; call in such a name: --as NAME",
    )


def _error(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    return {
        "error": {
            "code": error.code().name,
            "message": error.details(),
            "details": [
                {"reason": info.reason, "domain": info.domain, "metadata": dict(info.metadata)}
                for info in error_infos(error)
            ],
        }
    }
