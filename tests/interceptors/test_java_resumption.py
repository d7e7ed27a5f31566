"""Why a resumed session is judged by its certificate and not refused: Java resumes by default.

Its TLS (and with it grpc-java over the JDK's provider) resumes at every reconnection within one SSLContext,
for hours. To refuse `ssl_session_reused` would lock such a client out from its second connection on.
"""

import asyncio
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12
from cryptography.x509 import load_pem_x509_certificates
from hpack import Decoder, Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, SettingsFrame

from hauberk.certs.svid import Svid
from tests.interceptors.raw_http2 import PREFACE, message
from tests.interceptors.stage import TRUST_DOMAIN, Shape, Stage, echo, path, policy

pytestmark = pytest.mark.skipif(
    shutil.which("java") is None, reason="no java here: apt-get install openjdk-17-jdk-headless"
)


def request() -> bytes:
    """One whole connection's worth of HTTP/2: a unary call with one message."""
    headers = HeadersFrame(1, flags=["END_HEADERS"])
    headers.data = Encoder().encode(
        [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", path("Echo")),
            (":authority", f"server.{TRUST_DOMAIN}"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
    )
    data = DataFrame(1, flags=["END_STREAM"])
    data.data = message(b"hello")
    acknowledged = SettingsFrame(0, flags=["ACK"])
    return PREFACE + b"".join(frame.serialize() for frame in (SettingsFrame(0), acknowledged, headers, data))


def status(answer: bytes) -> str:
    """The grpc-status in what a server sent."""
    decoder = Decoder()
    found: dict[str, str] = {}
    while answer:
        frame, length = Frame.parse_frame_header(memoryview(answer[:9]))
        if isinstance(frame, HeadersFrame):
            frame.parse_body(memoryview(answer[9 : 9 + length]))
            found.update((str(name), str(value)) for name, value in decoder.decode(frame.data))
        answer = answer[9 + length :]
    return found["grpc-status"]


def key_store(svid: Svid) -> bytes:
    leaf, *others = load_pem_x509_certificates(svid.chain_pem)
    key = load_pem_private_key(svid.key_pem, None)
    return pkcs12.serialize_key_and_certificates(b"own", key, leaf, others, BestAvailableEncryption(b"shown"))  # type: ignore[arg-type]


async def test_java_reconnects_in_a_resumed_session_and_is_served(stage: Stage, tmp_path: Path) -> None:
    address = await stage.serve(
        {"Echo": (Shape.UNARY_UNARY, echo(Shape.UNARY_UNARY), policy("Echo", Shape.UNARY_UNARY, "*"))}
    )
    (tmp_path / "own.p12").write_bytes(key_store(stage.credentials("gateway").svid))
    (tmp_path / "root.pem").write_bytes(stage.authority.bundle.pem())
    java = await asyncio.create_subprocess_exec(
        "java",
        str(Path(__file__).with_name("Resume.java")),
        address.rpartition(":")[2],
        str(tmp_path / "own.p12"),
        str(tmp_path / "root.pem"),
        request().hex(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await java.communicate()
    assert java.returncode == 0, said.decode()
    first, second = (line.split() for line in out.decode().splitlines())
    assert first[0] == second[0], "the second connection resumes the session that the first one began"
    assert [status(bytes.fromhex(answer)) for _, answer in (first, second)] == ["0", "0"]
