"""All that is measured, and the figures that are promised of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from scripts.bench.features import FEATURES, Without
from scripts.bench.load import Shape
from scripts.bench.targets import OUR_THREADS, OURS, Variant

UNARY_32 = Shape(name="unary x32", at_once=32, calls=1000)
UNARY_1 = Shape(name="unary x1", at_once=1, calls=400)
STREAM_32 = Shape(name="stream of 10 x32", at_once=32, calls=400, streams=True)
SHAPES = (UNARY_32, UNARY_1, STREAM_32)

BARE, AGAIN = "bare", "bare again"
STOCK, THREADS = "bare, asyncio", "bare, threads"
OURS_1, OURS_100, OURS_BOTH, OUR_CHANNEL = (
    "ours, 1 %",
    "ours, 100 %",
    "ours at both ends",
    "bare, our channel",
)
MANY, FRESH, IN_THREADS = "ours, 200 methods", "ours, all-miss tokens", "ours, threads"
USUAL, SIDECARS = "usual stack", "Envoy sidecars"

VARIANTS = (
    Variant(name=BARE, server="bare"),
    Variant(name=AGAIN, server="again"),
    Variant(name=STOCK, server="stock", loop="asyncio"),
    Variant(name="bare, insecure", server="insecure", kind="insecure"),
    Variant(name=OURS_1, server="ours", kind=OURS),
    Variant(name=OURS_100, server="ours", kind=OURS, sampled=1.0),
    Variant(name=OURS_BOTH, server="ours", kind=OURS, our_channel=True),
    Variant(name=MANY, server="many", kind=OURS, methods=200, base=OURS_1),
    Variant(name=FRESH, server="fresh", kind=OURS, fresh=True),
    Variant(name=OUR_CHANNEL, server="bare", our_channel=True),
    Variant(name=THREADS, server="threads", kind="threads"),
    Variant(name=IN_THREADS, server="ours-threads", kind=OUR_THREADS, base=THREADS),
    Variant(name=USUAL, server="usual", kind="usual"),
    Variant(name=f"{USUAL}, 100 %", server="usual", kind="usual", sampled=1.0),
    Variant(name=SIDECARS, server="sidecars", kind="insecure"),
    Variant(name=f"{SIDECARS}, 100 %", server="sidecars", kind="insecure", sampled=1.0),
)


_CLIENT = (1.05, 1.10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """`variant` over `to`, in `what` of a cell."""

    means: str
    variant: str
    to: str
    shape: Shape = UNARY_32
    what: str = "server_us"
    most: tuple[float, float] | None = None
    """The median and the upper end of its 95 % interval, at most; None: stated, not promised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """What `variant` adds to bare calls in `what`, in multiples of what `ours` adds."""

    means: str
    variant: str
    ours: str
    shape: Shape = UNARY_32
    what: str = "server_us"
    least: float


RATIOS = {
    "same_loop_1pct": Ratio(
        means="server CPU, ours to bare, 1 % of calls sampled", variant=OURS_1, to=BARE, most=(1.10, 1.20)
    ),
    "stock_1pct": Ratio(
        means="the same as shipped, on uvloop, to bare on asyncio",
        variant=OURS_1,
        to=STOCK,
        most=(1.00, 1.05),
    ),
    "same_loop_100pct": Ratio(
        means="server CPU, ours to bare, each call sampled", variant=OURS_100, to=BARE, most=(1.15, 1.25)
    ),
    "threaded_1pct": Ratio(
        means="server CPU, in threads, ours to bare", variant=IN_THREADS, to=THREADS, most=(1.12, 1.20)
    ),
    "stream_1pct": Ratio(
        means="server CPU of a stream of 10", variant=OURS_1, to=BARE, shape=STREAM_32, most=(1.10, 1.15)
    ),
    "client": Ratio(
        means="client CPU of a call, 32 at once", variant=OUR_CHANNEL, to=BARE, what="client_us", most=_CLIENT
    ),
    "client_alone": Ratio(
        means="client CPU of a call, one at a time",
        variant=OUR_CHANNEL,
        to=BARE,
        shape=UNARY_1,
        what="client_us",
        most=_CLIENT,
    ),
    "stock_200_methods": Ratio(
        means="`stock_1pct` with 200 methods in place of 2", variant=MANY, to=STOCK, most=(1.00, 1.05)
    ),
    "methods_200_to_2": Ratio(means="server CPU, 200 methods to 2", variant=MANY, to=OURS_1),
    "all_miss": Ratio(means="`same_loop_1pct` where each call brings a new token", variant=FRESH, to=BARE),
}
TIMES = {
    "usual_stack_added": Times(
        means="server CPU that the usual stack adds", variant=USUAL, ours=OURS_1, least=8.0
    ),
    "sidecar_added_cpu": Times(
        means="CPU of all processes that two sidecars add, ours at both ends",
        variant=SIDECARS,
        ours=OURS_BOTH,
        what="total_us",
        least=5.0,
    ),
    "sidecar_added_p50": Times(
        means="median latency that they add, one call at a time",
        variant=SIDECARS,
        ours=OURS_BOTH,
        shape=UNARY_1,
        what="p50_ms",
        least=4.0,
    ),
}

ASIDE_EVERY = 4
"""Of so many rounds one measures what no figure needs."""

Plan = dict[Variant, dict[Shape, int]]
"""Under which loads, and in every how many rounds."""


def plan(only: Iterable[str], lacking: Iterable[Without], *, quick: bool) -> Plan:
    """What to measure, bare calls and their control always among it.

    `only` are parts of names of figures and variants; none: all. `lacking` adds ours without some features,
    beside each of ours. `quick` leaves out what no figure needs.
    """
    parts = tuple(only)
    needed: set[tuple[str, Shape]] = set()
    figures: Mapping[str, Ratio | Times] = {**RATIOS, **TIMES}
    for name, figure in figures.items():
        if not parts or any(part in name for part in parts):
            other = figure.to if isinstance(figure, Ratio) else figure.ours
            needed |= {(variant, figure.shape) for variant in (figure.variant, other)}
    for variant in VARIANTS:
        if any(part in variant.name for part in parts):
            needed |= {(variant.name, UNARY_32), (variant.base, UNARY_32)}
    needed |= {(name, shape) for name in (BARE, AGAIN) for _, shape in tuple(needed)}
    made: Plan = {}
    for variant in VARIANTS:
        under = {shape: 1 for shape in SHAPES if (variant.name, shape) in needed}
        if not (parts or quick):
            under = {shape: under.get(shape, ASIDE_EVERY) for shape in SHAPES}
        if under:
            made[variant] = under
            if variant.name in (OURS_1, IN_THREADS):
                made |= {_lacking(variant, without): under for without in lacking}
    return made


def _lacking(variant: Variant, without: Without) -> Variant:
    said = "all" if without == FEATURES.keys() else ", ".join(sorted(without))
    server = f"{variant.server}-{'-'.join(sorted(without))}"
    return replace(variant, name=f"{variant.name} - {said}", server=server, without=without)
