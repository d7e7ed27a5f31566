"""The traceparent header, after W3C Trace Context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hauberk.interceptors.tracing import TraceContext

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"


def test_header_is_read() -> None:
    assert TraceContext.parse(HEADER) == TraceContext(trace_id=TRACE, span_id=SPAN, sampled=True)


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("ff", True)])
def test_lowest_flag_says_sampled(flags: str, sampled: bool) -> None:
    context = TraceContext.parse(f"00-{TRACE}-{SPAN}-{flags}")
    assert context is not None
    assert context.sampled is sampled


@pytest.mark.parametrize(
    "header", [f"01-{TRACE}-{SPAN}-01", f"01-{TRACE}-{SPAN}-01-more", f"cc-{TRACE}-{SPAN}-01-"]
)
def test_later_version_is_read_by_its_first_four_fields(header: str) -> None:
    context = TraceContext.parse(header)
    assert context is not None
    assert context.trace_id == TRACE


@pytest.mark.parametrize(
    "header",
    [
        "",
        HEADER.upper(),
        HEADER + "-more",
        HEADER + " ",
        HEADER + "\n",
        " " + HEADER,
        HEADER[:-1],
        HEADER + "0",
        HEADER.replace("-", "_"),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE[:-1]}\u0661-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01{'-' + 'x' * 1000}",
    ],
)
def test_header_that_is_none_is_not_read(header: str) -> None:
    assert TraceContext.parse(header) is None


@given(st.text())
def test_no_text_crashes_the_parser(text: str) -> None:
    context = TraceContext.parse(text)
    assert context is None or len(context.trace_id) == 32


_hex = st.text("0123456789abcdef", min_size=1)


@given(
    trace_id=st.text("0123456789abcdef", min_size=32, max_size=32).filter(lambda text: text.strip("0")),
    span_id=st.text("0123456789abcdef", min_size=16, max_size=16).filter(lambda text: text.strip("0")),
    sampled=st.booleans(),
)
def test_header_round_trips(trace_id: str, span_id: str, sampled: bool) -> None:
    context = TraceContext(trace_id=trace_id, span_id=span_id, sampled=sampled)
    assert TraceContext.parse(context.header()) == context


def test_child_stays_in_its_trace_and_names_its_parent() -> None:
    parent = TraceContext(trace_id=TRACE, span_id=SPAN, sampled=False)
    child = parent.child()
    assert (child.trace_id, child.parent_id, child.sampled) == (TRACE, SPAN, False)
    assert child.span_id != SPAN


def test_arriving_call_is_a_child_of_its_caller() -> None:
    arrived = TraceContext.arriving((("other", "x"), ("traceparent", HEADER)))
    assert (arrived.trace_id, arrived.parent_id) == (TRACE, SPAN)


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("traceparent", "junk"),),
        (("traceparent", HEADER), ("traceparent", HEADER)),
        (("traceparent", HEADER.encode()),),
    ],
    ids=["none", "unreadable", "two", "bytes"],
)
def test_unreadable_header_begins_a_new_trace(metadata: tuple[tuple[str, str | bytes], ...]) -> None:
    arrived = TraceContext.arriving(metadata)
    assert arrived.parent_id is None
    assert arrived.trace_id != TRACE
    assert TraceContext.parse(arrived.header()) is not None
