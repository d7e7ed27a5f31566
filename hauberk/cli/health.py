"""`hauberk health`: asks workloads whether they serve, by grpc.health.v1; also from inside a container."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hauberk.certs.credentials import Credentials
from hauberk.certs.identity import SpiffeId
from hauberk.certs.store import CredentialStore
from hauberk.cli.dial import CALL_S, dialled, failure, operator_credentials
from hauberk.cli.errors import CommandFailed
from hauberk.cli.options import json_option, mesh_option, print_json, table
from hauberk.cli.ps import replicas
from hauberk.cli.state import State


@click.command(
    "health", epilog="Example:  hauberk health orders; in a container: hauberk health 127.0.0.1:8443"
)
@click.argument("target", default="", metavar="[WORKLOAD | HOST:PORT]")
@click.option("--service", default="", help="One contract of it; else the server as a whole.")
@mesh_option
@json_option
def command(target: str, service: str, state: State, as_json: bool) -> None:
    """Ask whether a workload serves; without one, ask all. Exits 1 unless all that were asked do.

    HOST:PORT is asked with the credentials in HAUBERK_STATE_DIR, and must be of the same workload: this is
    how a container probes itself.
    """
    answers = asyncio.run(_ask(state, target, service))
    if as_json:
        print_json(answers)
    else:
        keys = ("workload", "address", "health")
        click.echo(
            table(("WORKLOAD", "ADDRESS", "HEALTH"), [[answer[key] for key in keys] for answer in answers])
        )
    if any(answer["health"] != "SERVING" for answer in answers):
        raise SystemExit(1)


async def _ask(state: State, target: str, service: str) -> list[dict[str, str]]:
    if ":" in target:
        credentials = _own_credentials(os.environ)
        return [await check_health(target, credentials.svid.spiffe_id, credentials, service)]
    rows = [row for row in await replicas(state) if row["address"] and target in ("", row["workload"])]
    if not rows:
        raise CommandFailed(f"nobody has announced {target or 'anything'}", "who has: hauberk ps")
    credentials = operator_credentials(state)
    async with asyncio.TaskGroup() as tasks:
        checks = [
            tasks.create_task(
                check_health(row["address"], SpiffeId.parse(row["spiffe_id"]), credentials, service)
            )
            for row in rows
        ]
    return [check.result() for check in checks]


async def check_health(
    address: str, server: SpiffeId, credentials: Credentials, service: str = ""
) -> dict[str, str]:
    """The health of one server; why it could not be had, if it could not."""
    answer = {"workload": server.name, "address": address}
    try:
        async with dialled(address, server, credentials) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            response = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=CALL_S)
    except grpc.aio.AioRpcError as error:
        return answer | {"health": failure(error, f"{server.name} at {address}").message}
    return answer | {"health": health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)}


def _own_credentials(environment: Mapping[str, str]) -> Credentials:
    folder = environment.get("HAUBERK_STATE_DIR")
    if not folder:
        raise CommandFailed("HOST:PORT is asked with a workload's own credentials", "set HAUBERK_STATE_DIR")
    credentials = CredentialStore(Path(folder)).load()
    if credentials is None:
        raise CommandFailed(f"no credentials in {folder}", "start the workload: it writes them as it joins")
    return credentials
