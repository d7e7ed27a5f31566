"""An issuer's machine: publishes a key set over http, counts who asks, and can behave in every wrong way."""

import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

Answer = Callable[[BaseHTTPRequestHandler], None]


def plain(body: bytes, status: int = 200, **headers: str) -> Answer:
    """An answer of `body`."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def no_http(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"SSH-2.0-x\r\n")


def trickle(request: BaseHTTPRequestHandler) -> None:
    """Headers, one letter at a time."""
    _slowly(request, b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1000)


def trickle_body(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    _slowly(request, b" " * 1000)


def _slowly(request: BaseHTTPRequestHandler, text: bytes) -> None:
    for letter in text:
        try:
            request.wfile.write(bytes([letter]))
        except OSError:
            return
        time.sleep(0.05)


def endless(request: BaseHTTPRequestHandler) -> None:
    """A body without length and without end."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    try:
        while True:
            request.wfile.write(b" " * 65536)
    except OSError:
        return


class Publisher:
    """Answers every GET as `answer` says at that moment. Enter it; leaving ends it."""

    def __init__(self, answer: Answer, *, certificate: Path | None = None) -> None:
        """Over https with the certificate and key in one PEM file, where there is one."""
        self.answer = answer
        self.asked: list[float] = []
        """When, monotonic seconds."""
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.asked.append(time.monotonic())
                publisher.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}/keys.json"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
