"""What the benchmarks share: times of work done in turn."""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping

Clock = Callable[[], float]


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
