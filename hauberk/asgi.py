"""For FastAPI, Starlette, Django and whatever else speaks ASGI 3: calls made in a request inherit from it.

app.add_middleware(hauberk.asgi.Inherits, deadline_s=10)
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from hauberk.interceptors.call import within_call
from hauberk.web_request import DEADLINE_S, WebRequests

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Callable[..., Any], Callable[..., Any]], Awaitable[None]]


class Inherits:
    """An ASGI application around another, whose requests are calls being served: see web_request.py.

    A websocket, which may stay open for ever, is left alone.
    """

    def __init__(
        self,
        app: Application,
        *,
        deadline_s: float = DEADLINE_S,
        deadline_header: str | None = None,
        pass_token_to: Iterable[str] = (),
    ) -> None:
        self._app = app
        self._requests = WebRequests(
            deadline_s=deadline_s, deadline_header=deadline_header, pass_token_to=tuple(pass_token_to)
        )
        self._keys = {name.encode(): name for name in self._requests.wanted}

    async def __call__(self, scope: Scope, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = tuple(
            (self._keys[key], value.decode("latin-1")) for key, value in scope["headers"] if key in self._keys
        )
        address = (scope.get("client") or ("",))[0]
        with within_call(self._requests.call(f"{scope['method']} {scope['path']}", headers, address)):
            await self._app(scope, receive, send)
