"""A control plane that comes back: nothing is forgotten, and nothing that was lost passes for new."""

import asyncio
import json
import socket
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from sqlalchemy.exc import OperationalError

from hauberk.certs.authority import Authority
from hauberk.errors import ListenFailed
from hauberk.protos.hauberk.control.v1 import admin_pb2, enrolment_pb2
from hauberk.services.control import addresses
from hauberk.services.control.opening import StartRefused, database_trouble
from hauberk.services.control.plane import control_plane
from hauberk.services.control.settings import ConfigError
from hauberk.services.control.snapshot import Status
from hauberk.services.control.store import Store
from hauberk.services.database import open_database
from tests.control.core_mesh import (
    CATALOG,
    NOT_SERVING,
    PAYMENTS,
    core_mesh,
    make_ca,
    settings,
    spiffe,
)
from tests.postgresql import new_database


async def start_refused(state: Path, **control: str) -> str:
    with pytest.raises(StartRefused) as refused:
        async with control_plane(settings(state, **control)):
            pass
    assert "\n" not in str(refused.value)
    return str(refused.value)


async def test_endpoints_and_routes_are_there_before_anybody_announces_again(tmp_path: Path) -> None:
    async with core_mesh(tmp_path / "state") as mesh:
        catalog, payments = await mesh.join("catalog", [CATALOG]), await mesh.join("payments", [PAYMENTS])
        announced = await catalog.announce(agent="hauberk 0.1.0")
        await announced.say(status=NOT_SERVING)
        await announced.heard()
        await payments.announce(serves=(PAYMENTS,), address="127.0.0.1:4002")
        await mesh.until_listed("payments#1")
        before = mesh.plane.publisher.snapshots.value
    async with core_mesh(tmp_path / "state") as mesh:
        after = mesh.plane.publisher.snapshots.value
        assert after == before
        assert mesh.listed()["catalog#1"].status is Status.NOT_SERVING
        again = mesh.as_(catalog.credentials)
        await again.announce(agent="hauberk 0.1.0")
        await mesh.until_listed("catalog#1", "payments#1")


async def test_a_crash_forgets_no_more_than_the_last_moment(tmp_path: Path) -> None:
    async with core_mesh(tmp_path / "state") as mesh:
        await (await mesh.join("catalog", [CATALOG])).announce()
        await asyncio.sleep(0.5)
        second = Store.open(mesh.plane.store.engine.url.render_as_string())
        with second.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT address FROM replicas").all() == [("127.0.0.1:4001",)]
        second.close()


async def test_revocations_tokens_and_bindings_outlive_a_restart(tmp_path: Path) -> None:
    async with core_mesh(tmp_path / "state") as mesh:
        token = await mesh.token("payments", [PAYMENTS])
        catalog, operator = await mesh.join("catalog", [CATALOG]), await mesh.operator()
        await operator.admin.Revoke(admin_pb2.RevokeRequest(name="catalog"))
    async with core_mesh(tmp_path / "state") as mesh:
        assert mesh.plane.source.trust.value.revoked == {str(spiffe("catalog"))}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await mesh.as_(catalog.credentials).identity.Renew(enrolment_pb2.RenewRequest())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        payments = mesh.as_((await mesh.enrol(token)).credentials)
        await payments.announce(serves=(PAYMENTS,))


async def test_ports_are_kept_and_told_while_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "state" / "control" / "addresses.json"
    async with core_mesh(tmp_path / "state") as mesh:
        told = json.loads(file.read_bytes())
        assert told["mesh"] == mesh.plane.mesh.address
        assert told["enrolment"] == mesh.plane.enrolment.address
        assert file.stat().st_mode & 0o777 == 0o600
    assert not file.exists()
    async with core_mesh(tmp_path / "state"):
        assert json.loads(file.read_bytes()) == told


async def test_a_port_that_somebody_has_taken_is_given_up(tmp_path: Path) -> None:
    async with core_mesh(tmp_path / "state") as mesh:
        before = mesh.plane.mesh.address
    with socket.create_server(("127.0.0.1", int(before.rpartition(":")[2]))):
        async with core_mesh(tmp_path / "state") as mesh:
            assert mesh.plane.mesh.address != before
            assert (await mesh.join("orders")).credentials


async def test_without_a_ca_it_does_not_start_and_makes_none(tmp_path: Path) -> None:
    assert "hauberk ca init" in await start_refused(tmp_path / "state")
    assert not (tmp_path / "state" / "ca").exists()


async def test_an_emptied_store_is_refused(tmp_path: Path) -> None:
    async with core_mesh(tmp_path / "state"):
        pass
    for file in (tmp_path / "state" / "control").glob("control.db*"):
        file.unlink()
    assert "the store is empty" in await start_refused(tmp_path / "state")


@pytest.mark.parametrize("key", ["listen", "enrolment_listen"])
@pytest.mark.parametrize(
    ("address", "why"),
    [(None, "another process listens there"), ("192.0.2.7:8443", "no address of this machine")],
)
async def test_a_port_that_cannot_be_had_is_refused_in_the_words_of_the_mesh_file(
    tmp_path: Path, key: str, address: str | None, why: str
) -> None:
    make_ca(tmp_path / "state")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = address or f"127.0.0.1:{taken.getsockname()[1]}"
        said = await start_refused(tmp_path / "state", **{key: listen})
    assert said.startswith(f'[control] {key} = "{listen}" in mesh.toml: {why}; ')
    assert "HAUBERK_LISTEN" not in said


@pytest.mark.parametrize("kept", [0, 4096])
async def test_a_damaged_store_is_called_damaged(tmp_path: Path, kept: int) -> None:
    async with core_mesh(tmp_path / "state"):
        pass
    for file in (tmp_path / "state" / "control").glob("control.db*"):
        file.write_bytes(file.read_bytes()[:kept] + b"no database" * 5000)
    assert "damaged or no database at all: restore it" in await start_refused(tmp_path / "state")


async def test_garbage_in_any_page_of_the_store_is_found_at_start(tmp_path: Path) -> None:
    """Also in those that a start alone would not read: of certificates issued and tokens spent."""
    async with core_mesh(tmp_path / "state") as mesh:
        await mesh.join("catalog", [CATALOG])
    file = tmp_path / "state" / "control" / "control.db"
    content, page = file.read_bytes(), 4096
    assert len(content) > 15 * page
    for start in range(page, len(content), page):
        file.write_bytes(content[:start] + b"no database!" * 300 + content[start + 3600 :])
        assert "damaged or no database at all: restore it" in await start_refused(tmp_path / "state"), start
    file.write_bytes(content)
    async with core_mesh(tmp_path / "state"):
        pass


def test_a_full_disk_is_called_full(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/full/small.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE one (text TEXT)")
        connection.exec_driver_sql("PRAGMA max_page_count = 2")
        with pytest.raises(OperationalError) as full:
            connection.exec_driver_sql("INSERT INTO one VALUES (hex(zeroblob(100000)))")
    engine.dispose()
    assert "the disk is full" in str(database_trouble(full.value))


async def test_addresses_that_cannot_be_told_are_a_failure_to_listen(tmp_path: Path) -> None:
    make_ca(tmp_path / "state")
    (tmp_path / "state" / "control").mkdir(mode=0o700)
    (tmp_path / "state" / "control" / addresses.PORTS).mkdir()
    with pytest.raises(ListenFailed, match="nobody can be told where we listen: cannot write"):
        async with control_plane(settings(tmp_path / "state")):
            pass


async def test_the_store_of_another_mesh_is_refused(tmp_path: Path) -> None:
    for name in ("one", "other"):
        async with core_mesh(tmp_path / name):
            pass
    database = f"sqlite:///{tmp_path}/other/control/control.db"
    assert "belong together" in await start_refused(tmp_path / "one", database=database)


async def test_a_new_ca_with_the_old_store_is_refused(tmp_path: Path) -> None:
    async with core_mesh(tmp_path / "state"):
        pass
    (tmp_path / "state" / "ca").rename(tmp_path / "lost")
    make_ca(tmp_path / "state")
    assert "belong together" in await start_refused(tmp_path / "state")


async def test_two_do_not_run_on_one_state(tmp_path: Path) -> None:
    async with core_mesh(tmp_path / "state"):
        assert "another control plane is running" in await start_refused(tmp_path / "state")


async def test_the_ca_of_another_trust_domain_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    Authority.create(tmp_path / "state" / "ca", "other.test", now=datetime.now(UTC))
    with pytest.raises(ConfigError, match=r"trust_domain 'shop.test', the CA in .* is of 'other.test'"):
        async with control_plane(settings(tmp_path / "state")):
            pass


async def test_an_encrypted_ca_is_opened_with_its_passphrase_and_not_without(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    Authority.create(state / "ca", "shop.test", now=datetime.now(UTC), passphrase=b"correct horse")
    assert "key is encrypted and no passphrase was given" in await start_refused(state)
    for written, opens in (("battery staple", False), ("correct horse\n", True)):
        (tmp_path / "passphrase").write_text(written)
        if opens:
            async with core_mesh(state, ca_passphrase_file="passphrase") as mesh:
                assert (await mesh.join("orders")).credentials
        else:
            refused = await start_refused(state, ca_passphrase_file="passphrase")
            assert written not in refused


async def test_a_name_that_the_ca_does_not_permit_is_refused(tmp_path: Path) -> None:
    make_ca(tmp_path / "state")
    config = settings(tmp_path / "state")
    with pytest.raises(ConfigError, match=r"\[control\]: the control plane cannot be named so"):
        async with control_plane(replace(config, dns_names=("control.example",))):
            pass


async def test_it_serves_from_postgresql_too(tmp_path: Path, postgresql_server: str) -> None:
    database = new_database(postgresql_server)
    async with core_mesh(tmp_path / "state", database=database) as mesh:
        await (await mesh.join("catalog", [CATALOG])).announce()
        await (await mesh.operator()).admin.Revoke(admin_pb2.RevokeRequest(name="payments"))
    async with core_mesh(tmp_path / "state", database=database) as mesh:
        assert list(mesh.listed()) == ["catalog#1"]
        assert mesh.plane.source.trust.value.revoked == {str(spiffe("payments"))}
    assert not (tmp_path / "state" / "control" / "control.db").exists()


async def test_what_was_saved_but_cannot_be_read_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with core_mesh(tmp_path / "state") as mesh:
        catalog, payments = await mesh.join("catalog", [CATALOG]), await mesh.join("payments", [PAYMENTS])
        await catalog.announce()
        await payments.announce(serves=(PAYMENTS,), address="127.0.0.1:4002")
    store = Store.open(f"sqlite:///{tmp_path}/state/control/control.db")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE contracts SET descriptor = x'ff' WHERE service = ?", (CATALOG,))
    store.close()
    with caplog.at_level("WARNING"):
        async with core_mesh(tmp_path / "state") as mesh:
            assert list(mesh.listed()) == ["payments#1"]
            await mesh.as_(catalog.credentials).announce()
            await mesh.until_listed("catalog#1", "payments#1")
    assert f"saved contract {CATALOG} is left out" in caplog.text
