"""A web request is the call being served, for as long as it is answered and no longer."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

import fastapi
import flask
import pytest
from fastapi.responses import StreamingResponse

from hauberk import asgi, wsgi
from hauberk.interceptors.call import Call, current_call, within_call
from hauberk.interceptors.departure import Outbound, departure

CHANNEL = Outbound()
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
Headers = tuple[tuple[str, str], ...]


class Served:
    """What a framework's own code saw: once as it answered, once as it made the body."""

    def __init__(self) -> None:
        self.calls: list[Call | None] = []

    def note(self) -> None:
        self.calls.append(current_call())

    @property
    def call(self) -> Call:
        """The one call, whenever it was looked at."""
        (call,) = set(self.calls)
        assert call is not None
        return call


def flask_served(headers: Headers = (), **how: Any) -> Served:
    served, app = Served(), flask.Flask("lab")

    @app.get("/lab")
    def lab() -> flask.Response:
        served.note()

        def body() -> Iterator[bytes]:
            served.note()
            yield b"done"

        return flask.Response(body())

    environ: dict[str, Any] = {"PATH_INFO": "/lab"}
    environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers}
    setup_testing_defaults(environ)
    body: Any = wsgi.Inherits(app.wsgi_app, **how)(environ, lambda *_: None)
    assert b"".join(body) == b"done"
    body.close()
    return served


async def fastapi_served(headers: Headers = (), *, plain: bool = False, **how: Any) -> Served:
    served, app = Served(), fastapi.FastAPI()

    async def body() -> Any:
        served.note()
        yield b"done"

    async def lab() -> StreamingResponse:
        served.note()
        return StreamingResponse(body())

    def plain_lab() -> StreamingResponse:  # run in a thread
        served.note()
        return StreamingResponse(body())

    app.get("/lab")(plain_lab if plain else lab)
    app.add_middleware(asgi.Inherits, **how)
    sent: list[Any] = []
    requests = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if requests:
            return requests.pop()
        return await asyncio.Event().wait()  # the client stays

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "method": "GET",
        "path": "/lab",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    assert b"".join(message.get("body", b"") for message in sent) == b"done"
    return served


async def of(kind: str, headers: Headers = (), **how: Any) -> Served:
    if kind == "wsgi":
        return flask_served(headers, **how)
    return await fastapi_served(headers, plain=kind == "asgi in a thread", **how)


@pytest.fixture(params=["wsgi", "asgi", "asgi in a thread"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_calls_made_in_a_request_inherit_trace_and_time(kind: str) -> None:
    served = await of(kind, (("traceparent", TRACEPARENT),), deadline_s=3)
    assert len(served.calls) == 2
    assert served.call.trace.trace_id == TRACE
    assert served.call.method == "GET /lab"
    assert served.call.deadline is not None
    assert 2 < served.call.deadline.left(time.monotonic()) <= 3
    assert current_call() is None


async def test_a_request_without_a_trace_begins_one(kind: str) -> None:
    first, second = await of(kind), await of(kind)
    assert first.call.trace.trace_id != second.call.trace.trace_id


@pytest.mark.parametrize(
    ("told", "left"), [("1500", 1.5), ("99999", 3), ("-5", 3), ("1.5", 3), ("", 3), ("0", 0), ("1_0", 3)]
)
async def test_a_header_may_shorten_what_a_request_has_and_never_more(
    kind: str, told: str, left: float
) -> None:
    served = await of(kind, (("x-left", told),), deadline_s=3, deadline_header="x-left")
    assert served.call.time_left_s == left


async def test_a_header_nobody_named_says_nothing(kind: str) -> None:
    assert (await of(kind, (("hauberk-budget", "5"),), deadline_s=3)).call.time_left_s == 3


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Bearer abc.def", True),
        ("bearer abc", True),
        ("Basic abc", False),
        ("Bearer a b", False),
        ("", False),
    ],
)
async def test_the_users_token_is_at_hand_and_no_other_secret(kind: str, said: str, kept: bool) -> None:
    served = await of(kind, (("authorization", said), ("cookie", "session=1")))
    assert served.call.metadata == ((("authorization", said),) if kept else ())


async def test_two_tokens_are_as_good_as_none() -> None:
    served = await of("asgi", (("authorization", "Bearer a"), ("authorization", "Bearer b")))
    assert served.call.metadata == ()


async def test_the_users_token_goes_on_to_whom_the_application_names_and_no_further(kind: str) -> None:
    """Bearer tokens were checked by nobody before the callee does."""
    orders, payments = "shop.orders.v1.Orders", "shop.payments.v1.Payments"
    for said, told in (((("authorization", "Bearer abc"),), "Bearer abc"), ((), None)):
        call = (await of(kind, said, pass_token_to=[orders])).call
        with within_call(call):
            assert dict(departure(CHANNEL, "", None, None, contract=orders)[1]).get("authorization") == told
            assert "authorization" not in dict(departure(CHANNEL, "", None, None, contract=payments)[1])
    with within_call((await of(kind, (("authorization", "Bearer abc"),))).call):
        assert "authorization" not in dict(departure(CHANNEL, "", None, None, contract=orders)[1])


async def test_what_leaves_says_so() -> None:
    app = wsgi.Inherits(
        lambda environ, start: [repr(departure(CHANNEL, "", None, None)).encode()], deadline_s=2
    )
    environ: dict[str, Any] = {"HTTP_TRACEPARENT": TRACEPARENT}
    setup_testing_defaults(environ)
    (left,) = app(environ, lambda *_: None)
    assert TRACE.encode() in left
    assert b"('hauberk-budget', '19" in left


def test_a_file_is_left_to_the_server(tmp_path: Any) -> None:
    file = FileWrapper((tmp_path / "x").open("wb+"))
    app = wsgi.Inherits(lambda environ, start: file)
    assert app({"wsgi.file_wrapper": FileWrapper}, lambda *_: None) is file
    file.close()


async def test_lifespans_and_websockets_are_left_alone() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["type"], current_call()))

    inherits = asgi.Inherits(app)
    for kind in ("lifespan", "websocket"):
        await inherits({"type": kind}, app, app)
    assert seen == [("lifespan", None), ("websocket", None)]


def test_a_request_needs_some_time() -> None:
    with pytest.raises(ValueError, match="a request needs some time"):
        wsgi.Inherits(lambda environ, start: [], deadline_s=0)
