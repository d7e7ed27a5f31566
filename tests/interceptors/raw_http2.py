"""A gRPC client made of frames, for what no gRPC library would send: and for TLS sessions kept and used
again.

It blocks: use it through asyncio.to_thread.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from hauberk.certs.svid import Svid

Header = tuple[bytes, bytes]
Trailers = dict[str, bytes]
Raw = Callable[..., Awaitable[Any]]
"""Runs a blocking function with a connection."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def tls(folder: Path, key_pem: bytes, chain_pem: bytes, *, version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client context of exactly this TLS version that shows this certificate and believes any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    held = folder / "client.pem"
    held.write_bytes(key_pem + chain_pem)
    context.load_cert_chain(held)
    return context


def tls_of(folder: Path, svid: Svid, *, version: ssl.TLSVersion) -> ssl.SSLContext:
    return tls(folder, svid.key_pem, svid.chain_pem, version=version)


def message(payload: bytes) -> bytes:
    """`payload` framed as one uncompressed gRPC message."""
    return b"\0" + len(payload).to_bytes(4, "big") + payload


class Ended(Exception):
    """The server closed the connection or reset the stream; carries the code, if it gave one."""


class RawConnection:
    """One TLS connection with HTTP/2 begun on it. `window` is what the server may send before we say more."""

    def __init__(
        self,
        address: str,
        context: ssl.SSLContext,
        *,
        session: ssl.SSLSession | None = None,
        window: int | None = None,
    ) -> None:
        host, _, port = address.rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout=10)
        self._tls = context.wrap_socket(plain, server_hostname=host, session=session)
        self._decoder, self._encoder = Decoder(), Encoder()
        self._next_stream = 1
        self._buffer = b""
        settings = SettingsFrame(0)
        if window is not None:
            settings.settings = {SettingsFrame.INITIAL_WINDOW_SIZE: window}
        self._tls.sendall(PREFACE + settings.serialize())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._tls.close()

    @property
    def session(self) -> ssl.SSLSession:
        """The ticket to resume with; there once something was read (TLS 1.3 sends it late)."""
        assert self._tls.session is not None
        return self._tls.session

    @property
    def resumed(self) -> bool:
        return bool(self._tls.session_reused)

    def open(
        self, path: str, *, more: Iterable[Header] = (), ends: bool = False, raw_path: bytes | None = None
    ) -> int:
        """Send the headers of a call; its stream. `ends`: no message will follow."""
        stream = self._next_stream
        self._next_stream += 2
        frame = HeadersFrame(stream)
        frame.data = self._encoder.encode(
            [
                (b":method", b"POST"),
                (b":scheme", b"https"),
                (b":path", raw_path or path.encode()),
                (b":authority", b"server.mesh.test"),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
                *more,
            ]
        )
        frame.flags.add("END_HEADERS")
        if ends:
            frame.flags.add("END_STREAM")
        self._tls.sendall(frame.serialize())
        return stream

    def write(self, frames: bytes) -> None:
        """Send these bytes as they are."""
        self._tls.sendall(frames)

    def send(self, stream: int, payload: bytes, *, ends: bool = True) -> None:
        frame = DataFrame(stream)
        frame.data = payload
        if ends:
            frame.flags.add("END_STREAM")
        self._tls.sendall(frame.serialize())

    def grant(self, stream: int, octets: int) -> None:
        """Let the server send so much more on `stream`."""
        frame = WindowUpdateFrame(stream)
        frame.window_increment = octets
        self._tls.sendall(frame.serialize())

    def trailers(self, stream: int) -> Trailers:
        """What `stream` ended with; Ended if it, or the connection, was cut off instead."""
        while True:
            frame = self._frame()
            if isinstance(frame, HeadersFrame):
                headers = self._decoder.decode(frame.data, raw=True)
                if frame.stream_id == stream and "END_STREAM" in frame.flags:
                    return {bytes(key).decode(): bytes(value) for key, value in headers}
            elif isinstance(frame, RstStreamFrame) and frame.stream_id == stream:
                raise Ended(f"stream reset: {frame.error_code}")
            elif isinstance(frame, GoAwayFrame):
                raise Ended(f"goaway: {frame.error_code}")

    def next_trailers(self, *, within: float) -> Trailers:
        """What the next call to end, whichever it is, ended with. Raises TimeoutError, or Ended."""
        ends = time.monotonic() + within
        while True:
            frame = self.frame(within=max(0.001, ends - time.monotonic()))
            if isinstance(frame, HeadersFrame):
                headers = self._decoder.decode(frame.data, raw=True)
                if "END_STREAM" in frame.flags:
                    return {bytes(key).decode(): bytes(value) for key, value in headers}

    def frame(self, *, within: float = 10.0) -> Frame:
        """The next frame; SETTINGS and PING are answered. Raises TimeoutError, or Ended."""
        self._tls.settimeout(within)
        frame = self._frame()
        if isinstance(frame, GoAwayFrame):
            raise Ended(f"goaway: {frame.error_code} {frame.additional_data.decode(errors='replace')}")
        return frame

    def discard(self) -> None:
        """Read what has come and answer none of it. Raises Ended."""
        if not self._tls.recv(65536):
            raise Ended("connection closed")

    def call(self, path: str, *, more: Iterable[Header] = (), payload: bytes = b"hello") -> Trailers:
        """One whole call with one message."""
        stream = self.open(path, more=more)
        self.send(stream, message(payload))
        return self.trailers(stream)

    def _frame(self) -> Frame:
        header = self._read(9)
        frame, length = Frame.parse_frame_header(memoryview(header))
        frame.parse_body(memoryview(self._read(length)))
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self._tls.sendall(SettingsFrame(0, flags=["ACK"]).serialize())
        if isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            self._tls.sendall(PingFrame(0, opaque_data=frame.opaque_data, flags=["ACK"]).serialize())
        return frame

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            chunk = self._tls.recv(65536)
            if not chunk:
                raise Ended("connection closed")
            self._buffer += chunk
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken
