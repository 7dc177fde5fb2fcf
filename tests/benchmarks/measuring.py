"""What the benchmarks share: times of work done once or in turn, and the memory that it takes."""

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Clock = Callable[[], float]


def timed(
    name: str, work: Callable[[], Any], repeats: int = 1, clock: Clock = time.perf_counter
) -> tuple[Any, float]:  # fmt: skip
    """The result of `work` and the least of its seconds, which are printed."""
    found, seconds = None, []
    for _ in range(repeats):
        begun = clock()
        found = work()
        seconds.append(clock() - begun)
    print(f"  {name:<58} {min(seconds):9.2f} s", flush=True)
    return found, min(seconds)


def in_turn(
    ways: Mapping[str, Callable[[], object]], repeats: int, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:  # fmt: skip
    """The seconds of each way, done one after another `repeats` times; a round before them warms up."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for repeat, (way, work) in itertools.product(range(repeats + 1), ways.items()):
        begun = clock()
        work()
        if repeat > 0:
            times[way].append(clock() - begun)
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    return {way: statistics.median(seconds) for way, seconds in times.items()}


def memory() -> tuple[float, float]:
    """MiB of this process: its own, and pages of mapped files, which the system takes back when it needs them."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    own, mapped = (int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return own, mapped


class PeakMemory:
    """The highest memory in MiB while the block runs, sampled every 5 ms; `grown` is what the block added."""

    def __enter__(self) -> "PeakMemory":
        self.before = memory()[0]
        self.own = self.mapped = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.grown = max(0.0, self.own - self.before)

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            own, mapped = memory()
            self.own, self.mapped = max(self.own, own), max(self.mapped, mapped)
