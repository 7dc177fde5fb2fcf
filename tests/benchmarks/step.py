"""What a training step costs beside the network's bare passes, and what consistency costs, as ratios of one run.

    python tests/benchmarks/step.py [--repeats 8]

A U-Net at 32x32x3 in float32 on one thread, images decoded in memory as 8-bit, noise made as they are read. Every repeat
times the same number of steps of each kind, one kind after another; the medians over the repeats are compared.
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import torch
from measuring import in_turn, medians

from ambient_sweep.config import Config, build_config
from ambient_sweep.data.observed import FixedNoise, ObservedImages
from ambient_sweep.data.pixels import Pixels
from ambient_sweep.models import describe
from ambient_sweep.training.loop import Record, train
from ambient_sweep.training.state import TrainState

SHAPE, STEPS, BATCH = (3, 32, 32), 2, 16
MANY = 1_000_000 * STEPS  # steps of a run that never ends here
CONFIG = {
    "data": {"source": "folder", "path": "made up", "image_size": 32, "channels": 3},
    "model": {"kind": "unet", "width": 32, "blocks": 1, "levels": 3},
    "training": {"batch_size": BATCH, "images": MANY * BATCH, "records": 100_000},
    "observed.sigma": 0.3,
}
PLAIN = {"objective.kind": "ambient"}


def observations(count: int = 4096) -> ObservedImages:
    """Pictures as a decoded store would hold them, and noise as training adds it."""
    array = np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    level = np.full(count, 0.3, dtype=np.float32)
    noise = FixedNoise(seed=0, index=np.arange(count), base=np.zeros(count, dtype=np.float32), added=level)
    return ObservedImages(Pixels(array, "uint8"), torch.from_numpy(level), noise=noise)


def bare(config: Config) -> Callable[[], None]:
    """Forward and backward passes of the network alone, on ready inputs."""
    network = TrainState.create(config, SHAPE).denoiser.network
    x, c_noise = torch.randn(BATCH, *SHAPE), torch.randn(BATCH)

    def steps() -> None:
        for _ in range(STEPS):
            network.zero_grad()
            network(x, c_noise).square().sum().backward()

    return steps


def loop(config: Config) -> Callable[[], None]:
    """Steps of the training loop: data, noise, losses, averages, optimizer, bookkeeping; a record at the end of them."""
    state = TrainState.create(config, SHAPE)
    stops = frozenset(range(0, 1000 * STEPS * BATCH, STEPS * BATCH))
    records: Iterator[Record] = train(config, observations(), state, stops=stops)

    def steps() -> None:
        next(records)

    return steps


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=8)
    repeats = parser.parse_args(words).repeats
    torch.set_num_threads(1)
    plain = build_config(CONFIG, PLAIN)
    times = in_turn(
        {
            "bare": bare(plain),
            "loop": loop(plain),
            "loop, prefetch 0": loop(build_config(CONFIG, PLAIN, {"compute.prefetch": 0})),
            "consistency": loop(build_config(CONFIG, {"consistency.start": 0.0})),
        },
        repeats,
    )
    median = medians(times)
    print(
        describe(plain.model, SHAPE) + f"; batch {BATCH}, {repeats} repeats of {STEPS} steps, torch {torch.__version__}"
    )
    for kind, seconds in times.items():
        one, low, high = (1e3 * value / STEPS for value in (median[kind], min(seconds), max(seconds)))
        print(f"{kind:<24} {one:8.1f} ms a step  ({low:.1f} to {high:.1f})")
    for kind in ("loop", "loop, prefetch 0"):
        print(f"{kind} / bare: {median[kind] / median['bare']:.3f}")
    print(f"step with consistency / plain step: {median['consistency'] / median['loop']:.2f}")


if __name__ == "__main__":
    main()
