"""Images sampled per second: sampling.mode=exact against larger batches and the quick mode, as ratios of one run.

    python tests/benchmarks/sampling.py [--images 500] [--steps 2] [--repeats 3] [--device cpu] [--compile]

A U-Net at 32x32x3 and one at 8x8, as built. Every repeat samples the same images in each way, one way after another; the
medians over the repeats are compared. A step of Heun is two evaluations of the network, the last one is one. On a CPU one
thread, and its own seconds, which others on the machine disturb least; on a GPU the clock on the wall.
"""

import argparse
import time
from collections.abc import Callable

import torch
from measuring import in_turn, medians

from ambient_sweep.config import Config, SamplingConfig, build_config
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
COMPILED = {
    "fast, compile": FAST | {"sampling.compile": True},
    "fast, bf16, compile": FAST | {"sampling.precision": "bf16", "sampling.compile": True},
}


def sampler(config: Config, shape: Shape, count: int, device: str) -> Callable[[], object]:
    """Draws `count` images on the device; ends with a copy to the CPU."""
    denoiser = build_model(config.model, shape, 0).requires_grad_(False).to(device)
    return lambda: generate(config, denoiser, shape, count, 0, endpoints=config.endpoints(0), device=device)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 500), ("steps", 2), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile too: minutes on a CPU")
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    ways = WAYS | (COMPILED if asked.compile else {})
    clock = time.process_time if asked.device == "cpu" else time.perf_counter
    print(f"{asked.images} images, torch {torch.__version__}, {asked.device}")
    print(f"exact: {sampling.CHUNK} at once; fast: {SamplingConfig().batch_size}")
    for name, (shape, model) in SETS.items():
        base = {"objective.kind": "denoising", "observed.sigma": 0.0, "sampling.steps": asked.steps, "model": model}
        configs = {way: build_config(base, changes) for way, changes in ways.items()}
        print(f"\n{name}: {describe(configs['exact'].model, shape)}, {2 * asked.steps - 1} evaluations an image")
        samplers = {way: sampler(config, shape, asked.images, asked.device) for way, config in configs.items()}
        times = in_turn(samplers, asked.repeats, clock)
        median = medians(times)
        for way, values in times.items():
            low, high = (asked.images / edge for edge in (max(values), min(values)))
            print(
                f"{way:<22} {asked.images / median[way]:9.1f} images/s  ({low:.1f} to {high:.1f}), "
                f"exact takes {median['exact'] / median[way]:.2f} times as long"
            )


if __name__ == "__main__":
    main()
