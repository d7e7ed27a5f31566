"""How a process becomes a member, and what keeps it out."""

import asyncio
from datetime import timedelta

import grpc
import pytest

from hauberk.errors import JoinFailed
from tests.face.control import Control, get_product


async def test_a_join_token_makes_a_member(control: Control) -> None:
    async with control.join("gateway") as mesh:
        assert str(mesh.id) == "spiffe://shop.test/gateway"
        assert mesh.credentials.value.svid.lifetime > timedelta(minutes=59)


async def test_members_call_each_other_by_contract(control: Control) -> None:
    await control.catalog()
    gateway = await control.member("gateway")
    assert (await get_product(gateway, "A-7")).sku == "A-7"


async def test_state_on_disk_needs_neither_token_nor_control_plane(control: Control) -> None:
    async with control.join("gateway") as mesh:
        serial = mesh.credentials.value.svid.leaf.serial_number
    settings = control.settings("gateway")
    await control.stop()
    from hauberk.mesh import join

    async with join(settings) as mesh:
        assert mesh.credentials.value.svid.leaf.serial_number == serial
