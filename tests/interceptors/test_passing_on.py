"""Where the token of a call goes, that is served: only where its method's policy sends it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hauberk.interceptors.call import Call
from hauberk.interceptors.demands import TokenRule
from tests.interceptors.stage import SERVICE, Metadata, Shape, Stage, call, policy
from tests.interceptors.token_calls import UNARY, bearer, seeing
from tests.interceptors.token_forge import Forge


class Passing:
    """A first server that calls a second; what the second one saw of each call."""

    def __init__(self, stage: Stage, second: Stage, forge: Forge) -> None:
        self.seen: list[Call | None] = []
        self.own: Metadata = ()
        self.credentials: grpc.CallCredentials | None = None
        self.path = "/lab.v1.Lab/Echo"
        self._stage = stage
        self._second = second
        self._forge = forge

    async def start(self, shape: Shape, *pass_on: str) -> None:
        said = policy("Echo", shape, "*")
        await self._second.serve({"Echo": (shape, seeing(self.seen, shape), said)})
        channel = self._second.guarded("middle")

        async def first(request: Any, context: Any) -> bytes:
            if self.credentials is None:
                await call(channel, shape, self.path, metadata=self.own)
            else:
                await channel.unary_unary(self.path)(request, timeout=10, credentials=self.credentials)
            return b"passed"

        rule = TokenRule(bound=False, pass_on=pass_on)
        methods = {
            "First": (UNARY, first, policy("First", UNARY, "*", token=rule)),
            "Plain": (UNARY, first, policy("Plain", UNARY, "*")),
        }
        await self._stage.serve(methods, tokens=self._forge.tokens())

    async def brought(self, name: str, token: str) -> list[str | bytes]:
        """The authorization headers that the second server gets when the first is called with `token`."""
        await call(self._stage.channel(), UNARY, name, metadata=bearer(token))
        served = self.seen.pop()
        assert served is not None
        return [value for key, value in served.metadata if key == "authorization"]


@pytest.fixture
async def passing(stage: Stage, tmp_path: Path, forge: Forge) -> AsyncIterator[Passing]:
    (tmp_path / "second").mkdir()
    second = Stage(tmp_path / "second")
    yield Passing(stage, second, forge)
    await second.close()


async def test_token_is_passed_on_to_the_contracts_that_are_listed(
    passing: Passing, forge: Forge, shape: Shape
) -> None:
    await passing.start(shape, "other.v1.Other", SERVICE)
    token = forge.token()
    assert await passing.brought("First", token) == [f"Bearer {token}"]


@pytest.mark.parametrize("pass_on", [(), ("lab.v1.La",), ("lab.v1.Lab2",), ("lab.v1",), ("Lab",)])
async def test_token_goes_nowhere_else(passing: Passing, forge: Forge, pass_on: tuple[str, ...]) -> None:
    await passing.start(UNARY, *pass_on)
    assert await passing.brought("First", forge.token()) == []


async def test_token_that_nobody_verified_goes_nowhere(passing: Passing, forge: Forge) -> None:
    await passing.start(UNARY, SERVICE)
    assert await passing.brought("Plain", forge.token()) == []


async def test_token_that_the_caller_set_itself_stays(passing: Passing, forge: Forge) -> None:
    await passing.start(UNARY, SERVICE)
    passing.own = bearer("its-own")
    assert await passing.brought("First", forge.token()) == ["Bearer its-own"]


async def test_token_of_the_callers_own_credentials_stays(passing: Passing, forge: Forge) -> None:
    """Two headers would be refused."""
    await passing.start(UNARY, SERVICE)
    passing.credentials = grpc.access_token_call_credentials("its-own")
    assert await passing.brought("First", forge.token()) == ["Bearer its-own"]


async def test_outside_of_a_call_no_token_is_passed_on(passing: Passing, forge: Forge) -> None:
    await passing.start(UNARY, SERVICE)
    await passing.brought("First", forge.token())
    await call(passing._second.guarded("middle"), UNARY)
    served = passing.seen.pop()
    assert served is not None
    assert served.authorization is None
