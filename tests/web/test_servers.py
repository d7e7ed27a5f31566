"""Real frameworks under real servers call the mesh, and what they must not do fails where it is seen."""

import json
from pathlib import Path

import pytest

from tests.web.conftest import EXAMPLES, Web, WebServer

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
HERE = Path(__file__).parent


async def answers(web: Web, server: WebServer) -> None:
    """A request's trace and time go on to the mesh, from both of its workers."""
    status, body = await server.get("/products/B-7", HEADERS)
    assert (status, json.loads(body)) == (200, {"sku": "B-7", "name": "catalog"}), server.said
    (call,) = web.catalog.calls
    assert call.trace.trace_id == TRACE
    assert call.time_left_s is not None
    assert 5 < call.time_left_s < 10
    assert str(call.peer and call.peer.spiffe_id) == "spiffe://shop.test/gateway"
    assert {status for status, _ in await web.called_by(server, "/products/B-8", workers=2)} == {200}
    assert await server.stop() == 0, server.said


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["each loads", "preload"])
@pytest.mark.parametrize(
    ("example", "application"), [("flask_shop", "shop:app"), ("django_shop", "shop:application")]
)
async def test_gunicorn_whose_workers_join(
    web: Web, example: str, application: str, preload: tuple[str, ...]
) -> None:
    server = await web.gunicorn(EXAMPLES / example, application, "-c", "gunicorn.conf.py", *preload)
    await answers(web, server)


async def test_uvicorn_whose_workers_join(web: Web) -> None:
    server = await web.serve(
        EXAMPLES / "fastapi_shop", "uvicorn", "--port", "0", "--workers", "2", "shop:app"
    )
    await answers(web, server)


async def test_joined_before_the_fork_each_call_says_so(web: Web) -> None:
    server = await web.gunicorn(HERE, "joined_early:app", "--preload", "--workers", "2")
    status, _ = await server.get("/")
    assert status == 500
    await server.stop()
    assert "JoinedBeforeFork: this process was forked from" in server.said
    assert "join after the fork, in the server's post-fork hook (gunicorn post_fork" in server.said
    assert not web.catalog.calls


async def test_joined_before_the_fork_and_again_after_it_no_worker_starts(web: Web) -> None:
    server = await web.gunicorn(HERE, "joined_early:app", "--preload", "-c", "starts_again.py")
    assert await server.ended() != 0
    assert "JoinedBeforeFork: the mesh was joined by process" in server.said
