"""Nearest neighbours: time beside a loop over the queries, and memory.

    python tests/benchmarks/neighbours.py [--queries 5000] [--targets 50000] [--size 768] [--threads 2]

Made-up rows of 40 latent dimensions and noise, as thumbnails of 16x16x3 have. The loop forms float32 differences with all
targets for one query at a time; it is timed on 100 queries, in turn with the search, and counted for all. Memory is the
highest seen while the search runs, less that of the process with its data. Identical targets are the worst case of ties.
"""

import argparse
import os
import statistics
import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ambient_sweep.evaluation.neighbours import nearest

LOOPED = 100


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def memory() -> float:
    """Of this process, MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def grown(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and MB that the process grew by meanwhile."""
    before, ended, highest = memory(), threading.Event(), [0.0]

    def watch() -> None:
        while not ended.wait(0.005):
            highest[0] = max(highest[0], memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    took = seconds(work)
    ended.set()
    watcher.join()
    return took, highest[0] - before


def rows(n: int, size: int, seed: int) -> Tensor:
    basis = torch.randn(40, size, generator=torch.Generator().manual_seed(0)) / 8
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 40, generator=generator) @ basis + 0.1 * torch.randn(n, size, generator=generator)


def loop(queries: Tensor, targets: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found = [(targets - query).square_().sum(1).topk(k, largest=False) for query in queries]
    return torch.stack([each.values for each in found]).sqrt(), torch.stack([each.indices for each in found])


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("queries", 5000), ("targets", 50_000), ("size", 768), ("threads", 2), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    queries, targets = rows(asked.queries, asked.size, 1), rows(asked.targets, asked.size, 2)
    print(f"{len(queries)} x {len(targets)} x {asked.size}, {asked.threads} threads, torch {torch.__version__}")
    nearest(queries[:64], targets[:1024], 2)  # libraries load
    print(f"the process with its data: {memory():.0f} MB", end="")
    first, more = grown(lambda: nearest(queries, targets, 2))
    print(f"; the search, k = 2: {more:.0f} MB more")
    searched, few = [first], queries[:LOOPED]
    looped = []
    for _ in range(asked.repeats):
        looped.append(seconds(lambda: loop(few, targets, 2)) * len(queries) / len(few))
        searched.append(seconds(lambda: nearest(queries, targets, 2)))
    ours, theirs = statistics.median(searched), statistics.median(looped)
    print(f"nearest, k = 2: {ours:.1f} s; loop {theirs:.0f} s (of {len(few)} queries); ratio {theirs / ours:.1f}")
    agree = (loop(few, targets, 2)[1] == nearest(few, targets, 2)[1]).double().mean()
    print(f"indices of the float32 loop that are right: {agree:.2%}")
    print(f"nearest, k = 50: {seconds(lambda: nearest(queries, targets, 50)):.1f} s")
    same = targets[:1].expand(len(targets), -1)
    took, more = grown(lambda: nearest(queries, same, 2))
    print(f"identical targets: {took:.1f} s, {more:.0f} MB more")


if __name__ == "__main__":
    main()
