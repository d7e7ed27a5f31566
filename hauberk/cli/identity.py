"""Speaking in a workload's name: credentials for people, enrolled when they are needed and kept in .hauberk/.

The control plane lets an operator invite anybody, so an operator can be anybody; each such invitation stands
in its log. Bindings stay as they are: a name gets no right to serve by being called with.
"""

import asyncio

import click

from hauberk.certs import pem
from hauberk.certs.clock import utc_now
from hauberk.certs.credentials import Credentials
from hauberk.certs.errors import CertsError, SvidError
from hauberk.certs.identity import SpiffeId
from hauberk.certs.store import CredentialStore
from hauberk.cli.dial import check_mesh, control_plane, invited, operator_credentials, told
from hauberk.cli.errors import CommandFailed
from hauberk.cli.mesh_file import OPERATOR
from hauberk.cli.options import json_option, mesh_option, print_json
from hauberk.cli.state import State
from hauberk.joining import enrol_and_store
from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.settings import Settings

LEFT = 0.25
"""The part of its life an identity must have left to be used once more."""
LOCK_S = 10.0


@click.command("identity", hidden=True, epilog="Example:  hauberk identity gateway")
@click.argument("name", default=OPERATOR)
@mesh_option
@json_option
def command(name: str, state: State, as_json: bool) -> None:
    """Enrol as NAME where that is needed; print the paths of its key, chain and bundle, and its SPIFFE ID."""
    credentials = asyncio.run(credentials_of(state, name))
    store = store_of(state, name)
    paths = {"key": store.key_path, "chain": store.chain_path, "bundle": store.bundle_path}
    answer = {kind: str(path) for kind, path in paths.items()}
    answer["spiffe_id"] = str(credentials.svid.spiffe_id)
    if as_json:
        print_json(answer)
    else:
        click.echo("\n".join(answer.values()))


def store_of(state: State, name: str) -> CredentialStore:
    return CredentialStore(state.operator if name == OPERATOR else state.identity(name))


async def credentials_of(state: State, name: str) -> Credentials:
    """Credentials with which to speak as `name`, enrolled anew where those on disk are of no use any more."""
    if name == OPERATOR:
        return operator_credentials(state)
    store = store_of(state, name)
    for _ in range(round(LOCK_S / 0.1)):
        if lock := store.lock():
            with lock:
                return _usable(state, store) or await _enrolled(state, name, store)
        await asyncio.sleep(0.1)
    raise CommandFailed(f"another command enrols as {name} since {LOCK_S:g} s", "end it, and try again")


def _usable(state: State, store: CredentialStore) -> Credentials | None:
    """What is on disk, if it lives long enough and trusts whom the mesh trusts now."""
    try:
        found = store.load()
        if found is None:
            return None
        check_mesh(state, found)
        found.svid.check_dates(utc_now())
    except SvidError:
        return None
    trusted = {root for roots in found.bundle.anchors.values() for root in roots}
    fresh = found.svid.remaining(utc_now()) > LEFT * found.svid.lifetime
    return found if fresh and trusted == set(pem.parse(state.roots.read_bytes())) else None


async def _enrolled(state: State, name: str, store: CredentialStore) -> Credentials:
    addresses, operator = state.running(), operator_credentials(state)
    try:
        SpiffeId.of(operator.svid.spiffe_id.trust_domain, name)
        settings = Settings(
            name=name, state_dir=state.identity(name), enrolment=addresses.enrolment, roots=state.roots
        )
    except CertsError as error:
        raise CommandFailed(f"nobody can be called {name!r:.99}: {error}") from error
    async with control_plane(state) as admin:
        token = await invited(admin, admin_pb2.InviteRequest(name=name, keep_bindings=True))
    with told(f"the control plane at {addresses.enrolment}"):
        credentials, _ = await enrol_and_store(settings, store, token.join_token, utc_now)
    return credentials
