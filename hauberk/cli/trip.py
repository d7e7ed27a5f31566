"""The trip of one trace through the mesh, hop by hop, from the access records that its servers printed.

Each hop is told by the callee, so what it says of the caller is what the callee proved.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from hauberk.certs.errors import IdentityError
from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.tracing import is_of


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a trip needs of one line of the access log."""

    at: str = msgspec.field(name="@timestamp")
    trace_id: str = msgspec.field(name="trace.id")
    span_id: str = msgspec.field(name="span.id")
    parent_id: str | None = msgspec.field(name="parent.id")
    method: str = msgspec.field(name="rpc.method")
    callee: str = msgspec.field(name="service.name")
    caller: str | None = msgspec.field(name="client.spiffe_id")
    duration_ms: float = msgspec.field(name="event.duration_ms")
    budget_ms: float | None = msgspec.field(name="hauberk.budget_ms")
    status: str = msgspec.field(name="grpc.status")
    reason: str | None = msgspec.field(name="error.reason", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One call of a trace, as its callee recorded it."""

    trace_id: str
    span_id: str
    parent_id: str | None
    at: str
    caller: str | None
    """SPIFFE ID; None if the caller proved none."""
    callee: str
    """SPIFFE ID."""
    method: str
    duration_ms: float
    budget_ms: float | None
    """What the deadline left when the call arrived; None without a deadline."""
    status: str
    reason: str | None

    @classmethod
    def parse(cls, line: str) -> "Hop | None":
        """The hop that a line of a process's output tells of; None if it is any other line."""
        if not line.startswith("{"):
            return None
        try:
            record = msgspec.json.decode(line, type=_Record)
        except (msgspec.DecodeError, UnicodeError):
            return None
        return cls(**msgspec.structs.asdict(record))


@dataclass(frozen=True, slots=True)
class Trip:
    """The hops of one trace as a tree: each with its depth, callers first, in the order they began."""

    trace_id: str
    hops: tuple[tuple[int, Hop], ...]

    @classmethod
    def of(cls, trace_id: str, hops: Iterable[Hop]) -> "Trip":
        mine = sorted((hop for hop in hops if hop.trace_id == trace_id), key=lambda hop: hop.at)
        first = [hop for hop in mine if not any(_made(hop, one) for one in mine)]
        return cls(trace_id, tuple(_walk(first, mine, 0)))

    def missing(self, *, starts_with: str, through: Sequence[str] = ()) -> list[str]:
        """What should be in the trip and is not, each in a line: hops, and workloads it should have passed.

        `starts_with` is the SPIFFE ID of whoever made the first call, `through` those of the workloads.
        """
        complaints = [] if self.hops else [f"no server recorded a call of trace {self.trace_id}"]
        for depth, hop in self.hops:
            if depth == 0 and hop.caller not in (starts_with, None):
                complaints.append(f"{name_of(hop.caller)} called {hop.method} in a call that is not recorded")
        called = {hop.callee for _, hop in self.hops}
        complaints += [f"the trip never came to {name_of(one)}" for one in through if one not in called]
        return complaints

    def failures(self) -> list[str]:
        """The hops that did not end well."""
        return [
            f"{hop.method} at {name_of(hop.callee)} ended {hop.status}"
            + (f" ({hop.reason})" if hop.reason else "")
            for _, hop in self.hops
            if hop.status != "OK"
        ]

    def text(self) -> str:
        """For people: a line a hop, callees indented under their callers."""
        lines = [f"trip of trace {self.trace_id}, {len(self.hops)} hops"]
        rows = [
            (
                f"{'  ' * depth}{name_of(hop.caller)} -> {name_of(hop.callee)}",
                hop.method.lstrip("/"),
                f"peer {hop.caller or 'unknown'}",
                f"{hop.duration_ms:.1f} ms",
                "no deadline" if hop.budget_ms is None else f"{hop.budget_ms:.0f} ms left",
                hop.status if hop.reason is None else f"{hop.status} {hop.reason}",
            )
            for depth, hop in self.hops
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [
                cell.rjust(width) if number in (3, 4) else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  " + "  ".join(cells).rstrip())
        return "\n".join(lines)

    def json(self) -> list[dict[str, Any]]:
        """For scripts: a list of hops with their depth."""
        fields = Hop.__dataclass_fields__
        return [{"depth": depth} | {name: getattr(hop, name) for name in fields} for depth, hop in self.hops]


def name_of(spiffe_id: str | None) -> str:
    """What people call it: the path without its slash."""
    try:
        return SpiffeId.parse(spiffe_id or "").name
    except IdentityError:
        return spiffe_id or "somebody"


def _made(hop: Hop, by: Hop) -> bool:
    """Whether the call was made while serving the other: a caller may have a span for it, of which no server
    knows.
    """
    return hop.parent_id is not None and hop.span_id != by.span_id and is_of(hop.parent_id, by.span_id)


def _walk(level: Sequence[Hop], hops: Sequence[Hop], depth: int) -> Iterator[tuple[int, Hop]]:
    # A span calls itself only in a forged record; the depth of a call chain is bounded far below this.
    if depth > 64:
        return
    for hop in level:
        yield depth, hop
        below = [one for one in hops if _made(one, hop)]
        yield from _walk(below, hops, depth + 1)
