"""The log of a process under `hauberk.run`, and what it says of what nobody caught."""

import io
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from hauberk.interceptors.scrubbing import HIDDEN
from hauberk.log import FORMAT, Discreet
from hauberk.protos.hauberk.control.v1 import admin_pb2


@pytest.fixture
def said() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Discreet(FORMAT))
    log = logging.getLogger("shop.said")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    yield log, stream
    log.removeHandler(handler)


def test_message_and_arguments_lose_their_secrets(said: tuple[logging.Logger, io.StringIO]) -> None:
    log, stream = said
    log.info("connecting to %s", "postgresql://shop:canary@db/shop")
    log.info("password=canary")
    log.info("%(who)s", {"who": admin_pb2.InviteResponse(join_token="canary")})
    log.info("invited: %s", admin_pb2.InviteResponse(join_token="canary", spiffe_id="spiffe://shop.test/a"))
    log.info("key: %s", "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----")
    text = stream.getvalue()
    assert "canary" not in text
    assert text.count(HIDDEN) == 5
    assert "spiffe://shop.test/a" in text


def test_exception_is_told_without_source_and_secrets(said: tuple[logging.Logger, io.StringIO]) -> None:
    log, stream = said
    try:
        raise ValueError("password=canary")
    except ValueError:
        log.exception("it failed")
    text = stream.getvalue()
    assert "canary" not in text
    assert f"ValueError: password={HIDDEN}" in text
    assert "test_log.py:" in text


def test_lines_stay_lines_and_odd_arguments_cost_nothing(said: tuple[logging.Logger, io.StringIO]) -> None:
    log, stream = said
    log.info("a\nb %s", "c\nd")
    assert stream.getvalue().endswith("a\nb c\nd\n")


THREAD = """
import threading
async def main():
    threading.Thread(target=int, args=["secret=canary"]).start()
"""
FINALIZER = """
class Odd:
    def __del__(self):
        raise KeyError("secret=canary")
async def main():
    Odd()
"""
TASK = """
import asyncio
async def bad():
    raise OSError("secret=canary")
async def main():
    task = asyncio.create_task(bad())
    await asyncio.sleep(0)
    del task
"""


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("async def main(): raise ValueError('password=canary')", "ValueError"),
        (THREAD, "ValueError"),
        (FINALIZER, "KeyError"),
        (TASK, "OSError"),
    ],
    ids=["main", "thread", "finalizer", "task"],
)
def test_what_nobody_caught_is_told_without_secrets(program: str, kind: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", f"import hauberk\n{program}\nhauberk.run(main)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "canary" not in ran.stdout + ran.stderr
    assert kind in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.returncode == (1 if "main(): raise" in program else 0)
