"""Where spans are sent: `python -m scripts.bench.sink FOLDER`, OTLP over HTTP. It ends with its stdin.

How many came from each service it says in FOLDER/spans.json. What it costs counts as nobody's.
"""

import asyncio
import gzip
import json
import sys
from collections import Counter
from pathlib import Path

import uvloop
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

COUNTS = "spans.json"
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"


def counted(folder: Path, service: str) -> int:
    """Spans of `service` that have arrived so far."""
    try:
        return int(json.loads((folder / COUNTS).read_text("ascii")).get(service, 0))
    except FileNotFoundError:
        return 0


async def serve(folder: Path) -> None:
    counts: Counter[str] = Counter()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            body = await reader.readexactly(int(head.get("content-length", "0")))
            counts.update(_services(gzip.decompress(body) if head.get("content-encoding") else body))
            written = folder / f"{COUNTS}.new"
            written.write_text(json.dumps(counts), encoding="ascii")
            written.rename(folder / COUNTS)
            writer.write(_ANSWER)
        writer.close()

    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    (folder / "sink.address").write_text("127.0.0.1:{1}".format(*server.sockets[0].getsockname()), "ascii")
    async with server:
        await asyncio.to_thread(sys.stdin.read)


async def _head(reader: asyncio.StreamReader) -> dict[str, str]:
    """The header of the next request; nothing once the other side has closed."""
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:-2]
    except asyncio.IncompleteReadError:
        return {}
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _services(body: bytes) -> Counter[str]:
    found: Counter[str] = Counter()
    for resource in trace_service_pb2.ExportTraceServiceRequest.FromString(body).resource_spans:
        named = {each.key: each.value.string_value for each in resource.resource.attributes}
        found[named.get("service.name", "")] += sum(len(scope.spans) for scope in resource.scope_spans)
    return found


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
