"""The trip of a trace, from lines that servers printed."""

import json

import pytest

from hauberk.cli.trip import Hop, Trip
from hauberk.interceptors.tracing import TraceContext

TRACE = "a" * 32


def line(span: str, parent: str | None, caller: str | None, callee: str, **more: object) -> str:
    record = {
        "@timestamp": f"2026-01-01T00:00:00.{span.zfill(6)}Z",
        "trace.id": TRACE,
        "span.id": span,
        "parent.id": parent,
        "rpc.method": f"/shop.v1.Shop/{callee.title()}",
        "service.name": f"spiffe://shop.test/{callee}",
        "client.spiffe_id": caller and f"spiffe://shop.test/{caller}",
        "event.duration_ms": 1.5,
        "hauberk.budget_ms": 1999.7,
        "grpc.status": "OK",
        "error.reason": None,
    }
    return json.dumps(record | more)


def trip(*lines: str) -> Trip:
    return Trip.of(TRACE, [hop for text in lines if (hop := Hop.parse(text))])


WHOLE = (
    line("3", "1", "orders", "payments"),
    line("1", "0", "gateway", "orders"),
    line("2", "1", "orders", "catalog"),
)


def test_callees_stand_under_their_callers_in_the_order_they_were_called() -> None:
    shape = [(depth, hop.callee.rpartition("/")[2]) for depth, hop in trip(*WHOLE).hops]
    assert shape == [(0, "orders"), (1, "catalog"), (1, "payments")]


def test_callee_of_a_span_that_only_its_caller_knows_stands_under_the_caller() -> None:
    served, around = TraceContext(trace_id=TRACE, span_id="b" * 16), TraceContext.new()
    made = served.of_a_call()
    found = trip(
        line(served.span_id, around.span_id, "gateway", "orders"),
        line("c" * 16, made.span_id, "orders", "catalog"),
        line("d" * 16, served.of_a_call().span_id, "orders", "payments"),
    )
    assert [(depth, hop.callee.rpartition("/")[2]) for depth, hop in found.hops] == [
        (0, "orders"),
        (1, "catalog"),
        (1, "payments"),
    ]
    assert not found.missing(starts_with="spiffe://shop.test/gateway")


def test_the_text_tells_everything_asked_of_it() -> None:
    head, first, *below = trip(*WHOLE).text().splitlines()
    assert head == f"trip of trace {TRACE}, 3 hops"
    for part in (
        "gateway -> orders",
        "shop.v1.Shop/Orders",
        "peer spiffe://shop.test/gateway",
        "1.5 ms",
        "2000 ms left",
        "OK",
    ):
        assert part in first
    assert all(text.startswith("    orders -> ") for text in below)


def test_other_traces_and_other_lines_are_left_out() -> None:
    other = line("9", None, "gateway", "orders", **{"trace.id": "b" * 32})
    assert len(trip(*WHOLE, other, "started", "{", '{"a": 1}', "[]", "{not json}").hops) == 3


def test_a_whole_trip_lacks_nothing() -> None:
    names = [f"spiffe://shop.test/{name}" for name in ("orders", "catalog", "payments")]
    assert trip(*WHOLE).missing(starts_with="spiffe://shop.test/gateway", through=names) == []


def test_a_workload_it_never_came_to_is_missed() -> None:
    missing = trip(*WHOLE[:2]).missing(
        starts_with="spiffe://shop.test/gateway", through=["spiffe://shop.test/catalog"]
    )
    assert missing == ["the trip never came to catalog"]


def test_a_hop_whose_caller_recorded_none_is_missed() -> None:
    missing = trip(WHOLE[0]).missing(starts_with="spiffe://shop.test/gateway")
    assert missing == ["orders called /shop.v1.Shop/Payments in a call that is not recorded"]


def test_a_trace_nobody_recorded_is_missed() -> None:
    assert trip().missing(starts_with="spiffe://shop.test/gateway") == [
        f"no server recorded a call of trace {TRACE}"
    ]
    assert trip().text() == f"trip of trace {TRACE}, 0 hops"


def test_a_hop_that_did_not_end_well_is_a_failure() -> None:
    refused = line(
        "2", "1", "orders", "catalog", **{"grpc.status": "PERMISSION_DENIED", "error.reason": "NO"}
    )
    assert trip(WHOLE[1], refused).failures() == [
        "/shop.v1.Shop/Catalog at catalog ended PERMISSION_DENIED (NO)"
    ]


@pytest.mark.parametrize("parent", ["1", "2"])
def test_spans_that_name_themselves_or_one_another_end(parent: str) -> None:
    """Records are what processes print: a forged one must not hang the reader."""
    assert (
        len(trip(line("1", parent, "a", "b"), line("2", "1", "a", "b"), line("3", None, "x", "y")).hops) < 200
    )


def test_a_caller_without_a_certificate_and_a_call_without_a_deadline_are_said_to_be() -> None:
    text = trip(line("1", None, None, "control", **{"hauberk.budget_ms": None})).text()
    assert "somebody -> control" in text
    assert "peer unknown" in text
    assert "no deadline" in text


def test_json_has_every_field_and_the_depth() -> None:
    first = trip(*WHOLE).json()[0]
    assert first["depth"] == 0
    assert first["callee"] == "spiffe://shop.test/orders"
    assert first["budget_ms"] == 1999.7
