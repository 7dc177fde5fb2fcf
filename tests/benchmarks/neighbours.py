"""Nearest neighbours: time beside a loop over the queries, memory, and what the approximate index finds.

    python tests/benchmarks/neighbours.py [--queries 5000] [--targets 50000] [--size 768] [--threads 2]

Made-up rows of 40 latent dimensions and noise, as thumbnails of 16x16x3 have. The loop forms float32 differences with all
targets for one query at a time; it is timed on 100 queries, in turn with the search, and counted for all. Memory is the
highest seen while the search runs, less that of the process with its data. Identical targets are the worst case of ties.
"""

import argparse

import torch
from measuring import PeakMemory, in_turn, medians, timed
from torch import Tensor

from ambient_sweep.evaluation.neighbours import ApproximateIndex, nearest, nearest_with_flips

LOOPED = 100


def rows(n: int, size: int, seed: int) -> Tensor:
    basis = torch.randn(40, size, generator=torch.Generator().manual_seed(0)) / 8
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 40, generator=generator) @ basis + 0.1 * torch.randn(n, size, generator=generator)


def loop(queries: Tensor, targets: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found = [(targets - query).square_().sum(1).topk(k, largest=False) for query in queries]
    return torch.stack([each.values for each in found]).sqrt(), torch.stack([each.indices for each in found])


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("queries", 5000), ("targets", 50_000), ("size", 768), ("threads", 2), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args(words)
    torch.set_num_threads(asked.threads)
    queries, targets = rows(asked.queries, asked.size, 1), rows(asked.targets, asked.size, 2)
    print(f"{len(queries)} x {len(targets)} x {asked.size}, {asked.threads} threads, torch {torch.__version__}")
    few = queries[:LOOPED]
    median = medians(
        in_turn({"loop": lambda: loop(few, targets, 2), "ours": lambda: nearest(queries, targets, 2)}, asked.repeats)
    )
    theirs = median["loop"] * len(queries) / len(few)
    print(f"nearest, k = 2: {median['ours']:.1f} s; loop {theirs:.0f} s (of {len(few)} queries)")
    print(f"ratio {theirs / median['ours']:.1f}")
    agree = (loop(few, targets, 2)[1] == nearest(few, targets, 2)[1]).double().mean()
    print(f"indices of the float32 loop that are right: {agree:.2%}")
    timed("nearest, k = 50", lambda: nearest(queries, targets, 50))
    if asked.size == 768:
        images = queries.view(-1, 3, 16, 16), targets.view(-1, 3, 16, 16)
        timed("nearest with flips, k = 2", lambda: nearest_with_flips(*images, 2))
    same = targets[:1].expand(len(targets), -1)
    for name, those in (("k = 2", targets), ("identical targets", same)):
        with PeakMemory() as peak:
            timed(name, lambda those=those: nearest(queries, those, 2))
        print(f"  {name}: {peak.grown:.0f} MiB more than the process with its data")
    index, _ = timed("approximate index, built", lambda: ApproximateIndex(targets))
    copies = targets[:LOOPED] + 0.02 * torch.randn(LOOPED, asked.size, generator=torch.Generator().manual_seed(3))
    for probes in (index.lists // 32, index.lists // 8, index.lists // 2):
        index.probes = max(1, probes)
        timed(f"{index.probes} of {index.lists} lists", lambda: index.nearest(queries, 2))
        found, near = index.recall(queries, 1), index.recall(copies, 1)
        print(f"  nearest found {found.value:.3f}, of noisy copies {near.value:.3f}")


if __name__ == "__main__":
    main()
