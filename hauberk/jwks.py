"""One JWK set as it is published: read from a file, or fetched over https.

In a thread, and within a time and a size: the issuer is another's machine. Redirects are not followed, and
plain http is for this machine alone: whoever stands between us and the issuer would choose its keys.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from hauberk.interceptors.issuers import MAX_BYTES

FETCH_S = 5.0
_HERE = frozenset({"127.0.0.1", "::1", "localhost"})
_BLOCK = 16 * 1024


class NotFetched(Exception):
    """Nothing usable came; `str()` says why, in one line without the answer's own words."""


def check_url(url: str) -> None:
    """Raise ValueError unless `url` may be fetched."""
    parts = urlsplit(url)
    if not url.isascii() or not url.isprintable() or " " in url or not parts.hostname:
        raise ValueError(f"not a URL: {url!r:.99}")
    if parts.username is not None or parts.fragment:
        raise ValueError("a URL with a user or a fragment is not fetched")
    if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in _HERE):
        raise ValueError(f"write https: only this machine is asked over http: {url!r:.99}")
    _ = parts.port  # raises ValueError where it is none


def read(path: Path) -> bytes:
    """The file's bytes, one more than a JWK set may have at most. Raises NotFetched."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NotFetched(f"cannot read {path}: {error.strerror}") from None


def fetch(url: str, within_s: float = FETCH_S) -> bytes:
    """What a GET of `url` answers, within `within_s` seconds from its connection on. Raises NotFetched.

    Blocks. Looking up the host's name takes as long as the system's resolver lets it.
    """
    parts = urlsplit(url)
    connection = _connection(parts.scheme, parts.hostname or "", parts.port, within_s)
    ends_at = time.monotonic() + within_s
    sockets: list[socket.socket | None] = []
    # A timeout of the socket begins anew with each byte that trickles in.
    alarm = threading.Timer(within_s, lambda: _cut([connection.sock, *sockets]))
    alarm.daemon = True
    alarm.start()
    try:
        connection.connect()
        sockets.append(connection.sock)  # the connection forgets it where the answer is the last
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Accept": "application/json", "Connection": "close"})
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise NotFetched(f"it answers {answer.status}")
        return _body(answer, ends_at)
    except (OSError, http.client.HTTPException, ValueError) as error:
        late = time.monotonic() >= ends_at
        why = f"no whole answer within {within_s:g} s" if late else _said(error)
        raise NotFetched(why) from None
    finally:
        alarm.cancel()
        connection.close()


def _connection(scheme: str, host: str, port: int | None, within_s: float) -> http.client.HTTPConnection:
    if scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=within_s, context=context)
    return http.client.HTTPConnection(host, port, timeout=within_s)


def _body(answer: http.client.HTTPResponse, ends_at: float) -> bytes:
    found = b""
    while block := answer.read1(_BLOCK):
        found += block
        if len(found) > MAX_BYTES:
            raise NotFetched(f"it answers more than {MAX_BYTES} bytes")
    if time.monotonic() >= ends_at:  # being cut off looks like the end of the answer
        raise TimeoutError
    return found


def _cut(sockets: list[socket.socket | None]) -> None:
    """End what the thread that fetches waits for."""
    for each in sockets:
        if each is not None:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
