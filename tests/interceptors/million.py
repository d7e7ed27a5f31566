"""A million callers through one quota, a minute of theirs in a few seconds of ours; prints what came of it.

A process of its own, so that its memory is the quota's. Between them call a few that never stop.
"""

import gc
import json
import time
from pathlib import Path

from hauberk.interceptors.call import Call
from hauberk.interceptors.demands import QuotaRule
from hauberk.interceptors.errors import QuotaSpent
from hauberk.interceptors.policy import Policy
from hauberk.interceptors.quota import Quotas
from hauberk.interceptors.tracing import TraceContext

CALLERS = 1_000_000
EAGER = 5
TRIES_PER_S = 200
LIMIT = QuotaRule(limit=50, per_s=1, burst=10)
RARE = QuotaRule(limit=1, per_s=60, burst=1)
"""Of the million: each is remembered for the whole minute."""


def main() -> None:
    now = 0.0
    quotas = Quotas(clock=lambda: now)
    often, often_policy = _method(quotas, LIMIT)
    rarely, rarely_policy = _method(quotas, RARE)
    mine, theirs = _call(often_policy), _call(rarely_policy)
    gc.collect()
    before, began = _resident(), time.perf_counter()
    let_in, eager, longest_s = 0, [0] * EAGER, 0.0
    steps = 60 * TRIES_PER_S
    for step in range(steps):
        now = step / TRIES_PER_S
        for number in range(EAGER):
            mine.address = f"ipv4:172.16.0.{number}:1"
            eager[number] += _let_in(often, mine)
        for number in range(step * CALLERS // steps, (step + 1) * CALLERS // steps):
            theirs.address = f"ipv4:10.{number >> 16}.{number >> 8 & 255}.{number & 255}:1"
            at = time.perf_counter()
            let_in += _let_in(rarely, theirs)
            longest_s = max(longest_s, time.perf_counter() - at)
            if number % 10 == 0:
                let_in += _let_in(rarely, theirs)
    print(
        json.dumps(
            {
                "let_in": let_in,
                "eager": eager,
                "keys": len(quotas.buckets),
                "mib": round((_resident() - before) / 2**20, 1),
                "us": round((time.perf_counter() - began) / (1.1 * CALLERS + steps * EAGER) * 1e6, 2),
                "longest_ms": round(longest_s * 1000, 1),
            }
        )
    )


def _method(quotas: Quotas, rule: QuotaRule) -> tuple[object, Policy]:
    policy = Policy(method="/lab.v1.Lab/Echo", anonymous=True, quotas=(rule,))
    return quotas.check(policy, None)[0], policy


def _call(policy: Policy) -> Call:
    return Call(
        method=policy.method,
        policy=policy,
        metadata=(),
        trace=TraceContext.new(),
        started=0.0,
        time_left_s=None,
        auth_context={},
        address="",
    )


def _let_in(check: object, call: Call) -> bool:
    try:
        check(call)  # type: ignore[operator]
    except QuotaSpent:
        return False
    return True


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


if __name__ == "__main__":
    main()
