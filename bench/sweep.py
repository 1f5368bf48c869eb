"""Recall against queries per second, over the knob's whole range."""

from __future__ import annotations

from dataclasses import dataclass, field

from client import Timing
from peers import Contender, PostgresContender, Unavailable
from vectors import Judge, Quality

TARGETS = (0.9, 0.95, 0.99)
ENOUGH = 0.995              # the doubling ends at this recall,
LEAST_GAIN = 0.0005         # or when it brings less than this


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

    def _add(self, variant: str, knob: int | None) -> Point:
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

    def _recall(self, variant: str, knob: int) -> float:
        timing = self._contender.measure(variant, knob, 1, 0)
        return self._judge.judge(timing.ids).recall

    def _reach(self, variant: str, target: float, recalls: dict[int, float]) -> None:
        """Add the least knob value, to about a twentieth, whose recall is the target's."""
        reached = [knob for knob, recall in sorted(recalls.items()) if recall >= target]
        if not reached:
            return
        high = reached[0]
        low = max((knob for knob in recalls if knob < high), default=high - 1)
        while high - low > max(1, high // 20):
            middle = (low + high) // 2
            recalls[middle] = self._recall(variant, middle)
            if recalls[middle] >= target:
                high = middle
            else:
                low = middle
        if not any(p.variant == variant and p.knob == str(high) for p in self.points):
            self._add(variant, high)

    def _double(self, variant: str, recalls: dict[int, float]) -> None:
        knob, before = self._contender.knob_start, -1.0
        while True:
            knob = min(knob, self._contender.knob_limit)
            recalls[knob] = self._add(variant, knob).quality.recall
            if (recalls[knob] >= ENOUGH or recalls[knob] - before < LEAST_GAIN
                    or knob == self._contender.knob_limit):
                break
            before = recalls[knob]
            knob *= 2

    def run(self, knobs: list[int] | None) -> list[Point]:
        """The defaults, then the given knob values or else doubling ones, then the targets."""
        contender = self._contender
        if isinstance(contender, PostgresContender):
            self._add("", None)
        for variant in contender.variants:
            recalls: dict[int, float] = {}
            if knobs:
                for knob in knobs:
                    recalls[knob] = self._add(variant, knob).quality.recall
            else:
                self._double(variant, recalls)
            for target in TARGETS:
                self._reach(variant, target, recalls)
        return self.points
