"""For Flask, Django and whatever else speaks WSGI (PEP 3333): calls made in a request inherit from it.

app.wsgi_app = hauberk.wsgi.Inherits(app.wsgi_app, deadline_s=10)
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hauberk.interceptors.call import Call, within_call
from hauberk.web_request import DEADLINE_S, WebRequests

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Inherits:
    """A WSGI application around another, whose requests are calls being served: see web_request.py."""

    def __init__(
        self,
        application: Application,
        *,
        deadline_s: float = DEADLINE_S,
        deadline_header: str | None = None,
        pass_token_to: Iterable[str] = (),
    ) -> None:
        self._application = application
        self._requests = WebRequests(
            deadline_s=deadline_s, deadline_header=deadline_header, pass_token_to=tuple(pass_token_to)
        )
        self._keys = {f"HTTP_{name.upper().replace('-', '_')}": name for name in self._requests.wanted}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        headers = tuple((name, environ[key]) for key, name in self._keys.items() if key in environ)
        method = f"{environ.get('REQUEST_METHOD', '')} {environ.get('PATH_INFO', '')}"
        call = self._requests.call(method, headers, environ.get("REMOTE_ADDR", ""))
        with within_call(call):
            body = self._application(environ, start_response)
        wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(body, list | tuple) or (isinstance(wrapper, type) and isinstance(body, wrapper)):
            return body  # nothing of it is made later; and a server sends files in its own way
        return _Body(body, call)


class _Body:
    """A response's body, made under its request."""

    def __init__(self, body: Iterable[bytes], call: Call) -> None:
        self._body = body
        self._call = call
        self._parts: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with within_call(self._call):
            if self._parts is None:
                self._parts = iter(self._body)
            return next(self._parts)

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            with within_call(self._call):
                close()
