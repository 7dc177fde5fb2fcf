"""Images sampled per second: sampling.mode=exact against larger batches and the quick mode, as ratios of one run.

    python tests/benchmarks/sampling.py [--images 500] [--steps 2] [--repeats 3] [--device cpu] [--compile]

A U-Net at 32x32x3 and one at 8x8, as built. Every repeat samples the same images in each way, one way after another; the
medians over the repeats are compared. A step of Heun is two evaluations of the network, the last one is one. On a CPU one
thread, and its own seconds, which others on the machine disturb least; on a GPU the clock on the wall.
"""

import argparse
import statistics
import time

import torch

from ambient_sweep.config import Config, build_config
from ambient_sweep.models import Shape, build_model, describe
from ambient_sweep.trial import samples as sampling
from ambient_sweep.trial.samples import generate

SETS: dict[str, tuple[Shape, dict[str, object]]] = {
    "32x32x3": ((3, 32, 32), {"width": 16, "blocks": 1, "levels": 3}),
    "8x8": ((1, 8, 8), {"width": 32, "blocks": 1, "levels": 2}),
}
FAST = {"sampling.mode": "fast"}
WAYS: dict[str, dict[str, object]] = {
    "exact": {},
    "fast, 64 at once": FAST | {"sampling.batch_size": 64},
    "fast, 500 at once": FAST | {"sampling.batch_size": 500},
    "fast": FAST,
    "fast, bf16": FAST | {"sampling.precision": "bf16"},
}
COMPILED = {"fast, compile": FAST | {"sampling.compile": True}}
BOTH = {"fast, bf16, compile": FAST | {"sampling.precision": "bf16", "sampling.compile": True}}


def seconds(config: Config, shape: Shape, count: int, device: str) -> float:
    """What `count` images take, on the device."""
    denoiser = build_model(config.model, shape, 0).requires_grad_(False).to(device)
    clock = time.process_time if device == "cpu" else time.perf_counter
    begun = clock()
    generate(config, denoiser, shape, count, 0, device=device)  # ends with a copy to the CPU
    return clock() - begun


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    ways = WAYS | (COMPILED | BOTH if arguments.compile else {})
    print(f"{arguments.images} images, torch {torch.__version__}, {arguments.device}")
    print(f"exact: {sampling.CHUNK} at once; fast: {sampling.FAST_BATCH}")
    for name, (shape, model) in SETS.items():
        base = {
            "data.train_size": 150,
            "objective.kind": "denoising",
            "observed.sigma": 0.0,
            "sampling.steps": arguments.steps,
        }
        configs = {way: build_config(base, {"model": model}, changes) for way, changes in ways.items()}
        print(f"\n{name}: {describe(configs['exact'].model, shape)}, {2 * arguments.steps - 1} evaluations an image")
        times: dict[str, list[float]] = {way: [] for way in ways}
        for repeat in range(arguments.repeats + 1):
            for way, config in configs.items():
                # the first warms up: kernels are chosen and compiled for the batches that follow
                taken = seconds(config, shape, arguments.images, arguments.device)
                if repeat > 0:
                    times[way].append(taken)
        median = {way: statistics.median(values) for way, values in times.items()}
        for way, values in times.items():
            low, high = (arguments.images / edge for edge in (max(values), min(values)))
            print(
                f"{way:<22} {arguments.images / median[way]:9.1f} images/s  ({low:.1f} to {high:.1f}), "
                f"exact takes {median['exact'] / median[way]:.2f} times as long"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile too: minutes on a CPU")
    main(parser.parse_args())
