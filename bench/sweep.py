"""Recall against queries per second, over the knob's whole range."""

from __future__ import annotations

from dataclasses import dataclass, field

from client import Timing
from peers import Contender, Knob, PostgresContender, Unavailable
from vectors import Judge, Quality

TARGETS = (0.9, 0.95, 0.99)
ENOUGH = 0.995              # the steps end at this recall,
LEAST_GAIN = 0.0005         # or when it brings less than this

# Of a knob that is a recall to aim at, the shares left out of a step and the next, and of two that are near
# enough: the second takes about a twentieth more lists than the first
STEP, NEAR = 10 ** 0.25, 10 ** 0.03


def after(knob: Knob) -> Knob:
    """The next value to try."""
    return round(1 - (1 - knob) / STEP, 5) if isinstance(knob, float) else knob * 2


def between(low: Knob, high: Knob) -> Knob | None:
    """A value between two, or None if they are within a twentieth or so."""
    if isinstance(high, float):
        return round(1 - ((1 - low) * (1 - high)) ** 0.5, 5) if 1 - low > (1 - high) * NEAR else None
    return (low + high) // 2 if high - low > max(1, high // 20) else None


@dataclass
class Point:
    system: str
    variant: str
    knob: str               # "default", or the knob's value
    clients: int
    quality: Quality
    timing: Timing
    scan: dict[str, float] = field(default_factory=dict)

    def columns(self) -> dict:
        return {
            "system": self.system, "variant": self.variant, "knob": self.knob,
            "clients": self.clients, "recall": round(self.quality.recall, 5),
            "qps": round(self.timing.queries_per_second, 1),
            "mean_ms": round(1e3 * float(self.timing.latencies.mean()), 4),
            **{f"p{p}_ms": round(self.timing.percentile_ms(p), 4) for p in (50, 95, 99)},
            "short": self.quality.short, "repeated": self.quality.repeated,
            "disordered": self.quality.disordered,
            **{f"scan_{name}": round(value, 2) for name, value in self.scan.items()},
        }


class Sweep:
    def __init__(self, contender: Contender, judge: Judge, seconds: float,
                 clients: list[int], report=lambda point: None):
        self._contender, self._judge = contender, judge
        self._seconds, self._clients, self._report = seconds, clients, report
        self.points: list[Point] = []

    def _add(self, variant: str, knob: Knob | None) -> Point:
        """Measure with each number of clients; return the point of the first."""
        scan = self._contender.scan_averages(variant, knob)
        points = []
        for clients in self._clients:
            try:
                timing = self._contender.measure(variant, knob, clients, self._seconds)
            except Unavailable:
                continue
            point = Point(self._contender.name, variant, "default" if knob is None else str(knob),
                          clients, self._judge.judge(timing.ids), timing, scan)
            points.append(point)
            self._report(point)
        self.points += points
        return points[0]

    def _recall(self, variant: str, knob: Knob) -> float:
        timing = self._contender.measure(variant, knob, 1, 0)
        return self._judge.judge(timing.ids).recall

    def _reach(self, variant: str, target: float, recalls: dict[Knob, float]) -> None:
        """Add the least knob value, to about a twentieth, whose recall is the target's."""
        reached = [knob for knob, recall in sorted(recalls.items()) if recall >= target]
        if not reached:
            return
        high = reached[0]
        low = max((knob for knob in recalls if knob < high), default=high)
        while (middle := between(low, high)) is not None:
            recalls[middle] = self._recall(variant, middle)
            if recalls[middle] >= target:
                high = middle
            else:
                low = middle
        if not any(p.variant == variant and p.knob == str(high) for p in self.points):
            self._add(variant, high)

    def _step(self, variant: str, recalls: dict[Knob, float]) -> None:
        knob, before = self._contender.knob_start, -1.0
        while True:
            knob = min(knob, self._contender.knob_limit)
            recalls[knob] = self._add(variant, knob).quality.recall
            if (recalls[knob] >= ENOUGH or knob == self._contender.knob_limit
                    or isinstance(knob, int) and recalls[knob] - before < LEAST_GAIN):
                break
            before = recalls[knob]
            knob = after(knob)

    def run(self, knobs: list[Knob] | None) -> list[Point]:
        """The defaults, then the given knob values or else ones that grow in steps, then the targets."""
        contender = self._contender
        if isinstance(contender, PostgresContender):
            self._add("", None)
        for variant in contender.variants:
            recalls: dict[Knob, float] = {}
            if knobs:
                for knob in knobs:
                    recalls[knob] = self._add(variant, knob).quality.recall
            else:
                self._step(variant, recalls)
            for target in TARGETS:
                self._reach(variant, target, recalls)
        return self.points
