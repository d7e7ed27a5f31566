"""A million distinct callers, all waiting for their quota at once: what that takes, and how exact it is."""

import json
import subprocess
import sys

import pytest

from tests.interceptors import million


@pytest.mark.timeout(120)
def test_a_million_callers_are_held_to_their_limit_in_bounded_memory() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", million.__name__], capture_output=True, text=True, check=True, timeout=110
    )
    seen = json.loads(ran.stdout)
    print(seen)
    assert seen["let_in"] == seen["keys"] - million.EAGER == million.CALLERS
    fair = million.LIMIT.burst + million.LIMIT.limit * 60 / million.LIMIT.per_s
    assert all(abs(count - fair) <= fair / 100 for count in seen["eager"])
    assert seen["mib"] < 240
