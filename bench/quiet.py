"""Whether the machine is as fast as it can be at the moment.

Memory and caches of a virtual machine are shared with others, whose work slows down a
measurement by up to two fifths, for seconds or for minutes.  A probe that waits for
memory, as searches do, tells when.
"""

from __future__ import annotations

import time
from typing import Callable, TypeVar

import numpy as np

PROBE_BYTES = 128 << 20     # more than any cache that one process gets
PROBE_READS = 100_000
PROBES = 5                  # their median counts
DISTURBED = 1.2             # times the fastest probe so far
LONGEST_WAIT = 60.0         # seconds, for each measurement
ATTEMPTS = 3

Result = TypeVar("Result")


class Quiet:
    """Measures when nobody disturbs, as far as that can be had."""

    def __init__(self) -> None:
        generator = np.random.default_rng(1)
        self._memory = np.ones(PROBE_BYTES // 8)
        self._places = generator.integers(len(self._memory), size=PROBE_READS)
        self._fastest = float("inf")
        self.waited = 0.0       # seconds, in all
        self.disturbed = 0      # measurements that were, all the same
        for _ in range(4):
            self._is_quiet()

    def _probe(self) -> float:
        start = time.perf_counter()
        self._memory[self._places].sum()
        return time.perf_counter() - start

    def _is_quiet(self) -> bool:
        seconds = float(np.median([self._probe() for _ in range(PROBES)]))
        self._fastest = min(self._fastest, seconds)
        return seconds <= DISTURBED * self._fastest

    def _wait(self) -> None:
        start = time.perf_counter()
        while not self._is_quiet() and time.perf_counter() - start < LONGEST_WAIT:
            time.sleep(0.5)
        self.waited += time.perf_counter() - start

    def measure(self, measure: Callable[[], Result]) -> Result:
        """What measure() returns, called again if somebody disturbed before or after."""
        for _ in range(ATTEMPTS):
            self._wait()
            result = measure()
            if self._is_quiet():
                return result
        self.disturbed += 1
        return result
