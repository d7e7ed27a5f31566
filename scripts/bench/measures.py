"""What rounds say: paired ratios, their median, and the interval that resampling gives it."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

RESAMPLED = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A median, and the 95 % interval of it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Bootstrap by percentiles (Efron, 1979); the same values give the same interval."""
        dice = random.Random(11)  # noqa: S311
        medians = sorted(statistics.median(dice.choices(values, k=len(values))) for _ in range(RESAMPLED))
        return cls(
            median=statistics.median(values),
            low=medians[round(0.025 * RESAMPLED)],
            high=medians[round(0.975 * RESAMPLED) - 1],
        )

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One load on one variant in one round. CPU in microseconds a call."""

    server_us: float
    client_us: float
    rps: float
    p50_ms: float
    latencies: list[float] = field(repr=False)

    @property
    def total_us(self) -> float:
        return self.server_us + self.client_us


@dataclass(slots=True)
class Table:
    """All cells: by variant and shape, and then by the number of their round."""

    cells: dict[tuple[str, str], dict[int, Cell]] = field(default_factory=dict)

    def add(self, variant: str, shape: str, number: int, cell: Cell) -> None:
        self.cells.setdefault((variant, shape), {})[number] = cell

    def has(self, variant: str, shape: str) -> bool:
        return (variant, shape) in self.cells

    def column(self, variant: str, shape: str, what: str) -> list[float]:
        return [getattr(cell, what) for cell in self.cells[variant, shape].values()]

    def ratio(self, variant: str, to: str, shape: str, what: str = "server_us") -> Estimate:
        """`variant` over `to`, paired round by round."""
        return Estimate.of([one / other for one, other in self._pairs(variant, to, shape, what)])

    def added(self, variant: str, to: str, shape: str, what: str) -> Estimate:
        """How much `variant` takes more than `to`, paired round by round."""
        return Estimate.of([one - other for one, other in self._pairs(variant, to, shape, what)])

    def spread(self, variant: str, to: str, shape: str, what: str) -> float:
        """How far two of a kind are apart at most, by the interval of their ratio, in the unit of `what`."""
        ratio = self.ratio(variant, to, shape, what)
        widest = max(abs(ratio.low - 1), abs(ratio.high - 1))
        return widest * statistics.median(self.column(to, shape, what))

    def latency_ms(self, variant: str, shape: str, share: float) -> float:
        """A quantile over the calls of all rounds."""
        every = sorted(each for cell in self.cells[variant, shape].values() for each in cell.latencies)
        return every[min(len(every) - 1, int(share * len(every)))] * 1000

    def _pairs(self, variant: str, to: str, shape: str, what: str) -> list[tuple[float, float]]:
        """Both values of each round that has both."""
        one, other = self.cells[variant, shape], self.cells[to, shape]
        return [(getattr(one[at], what), getattr(other[at], what)) for at in one if at in other]
