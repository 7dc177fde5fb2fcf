"""What consistency settings cost and gain: `python tests/benchmarks/consistency.py [--seeds N]`.

Problems: mixtures of Gaussians in 2 and 8 dimensions, whose E[x_0 | x_t] is known, and scikit-learn's digits, all
observed at sigma_n = 0.3. Error: geometric mean over the levels sigma_n/6, sigma_n/3 and 2 sigma_n/3, all below the
observed one, and over the seeds; on mixtures relative to the posterior variance, on digits that of held-out images over
sigma^2. Cost: network passes, in plain steps (`config.cost`), which do not depend on the machine.

One setting is changed at a time, with the share of the batch at which the whole run costs the same; beside them a run
without consistency.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from closed_forms import denoising_error, six_modes, two_modes

from ambient_sweep.config import Config, build_config
from ambient_sweep.config.cost import plain_images, step_cost
from ambient_sweep.data.dataset import load_data
from ambient_sweep.data.observed import ObservedImages, observe
from ambient_sweep.training.loop import train
from ambient_sweep.training.state import TrainState

SIGMA_N = 0.3
LEVELS = (0.05, 0.1, 0.2)
MIXTURES = {"mixture, 2-D": two_modes(), "mixture, 8-D": six_modes()}
DIGITS = "digits"
PROBLEMS = (*MIXTURES, DIGITS)
BASE: dict[str, Any] = {
    "observed.sigma": SIGMA_N,
    "noise": {"mean": -0.5, "std": 1.0},
    "optimizer": {"lr": 3e-3, "warmup": 0.08},
    "evaluation.lengths": [1.0],
}
OF_MIXTURES: dict[str, Any] = {
    "model": {"kind": "mlp", "width": 64, "blocks": 2},
    "ema": {"halflife": 20_000, "rampup": 1.0},
    "training": {"images": 192_000, "batch_size": 128},
}
OF_DIGITS: dict[str, Any] = {
    "model": {"kind": "mlp", "width": 256, "blocks": 2, "sigma_data": 0.6},
    "ema": {"halflife": 9000, "rampup": 1.0},
    "training": {"images": 153_600, "batch_size": 64},
    "data.train_size": 1000,
}
OF_PROBLEM = {**{name: OF_MIXTURES for name in MIXTURES}, DIGITS: OF_DIGITS}  # noqa: C420 (shared on purpose)


def error_of(problem: str, seed: int, changes: dict[str, Any]) -> float:
    """The error below the observed level after one training."""
    config = build_config(BASE, OF_PROBLEM[problem], {"seed": seed}, changes)
    observed, shape, error = _problem(problem, config)
    state = TrainState.create(config, shape)
    for _ in train(config, observed, state):
        pass
    return float(error(state.average))


def relative_cost(config: Config) -> float:
    """Network passes of a whole run over those of ambient training of the same images."""
    return plain_images(config, config.length) / config.length


def _problem(problem: str, config: Config) -> tuple[Any, tuple[int, int, int], Any]:
    if problem == DIGITS:
        data = load_data(config.data)
        clean = data.heldout[:]

        def heldout_error(denoiser: Any) -> float:
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                errors = [
                    float(((denoiser(clean + s * noise, torch.full((len(clean),), s)) - clean) ** 2).mean()) / s**2
                    for s in LEVELS
                ]
            return geometric(errors)

        return observe(data, config.observed), data.shape, heldout_error
    mixture = MIXTURES[problem]
    generator = torch.Generator().manual_seed(config.seed)
    x0 = mixture.draw(20_000, generator).float()
    y = x0 + SIGMA_N * torch.randn(x0.shape, generator=generator)
    observed = ObservedImages(y, torch.full((len(y),), SIGMA_N))
    return observed, (1, 1, x0.shape[-1]), lambda d: geometric([denoising_error(d, mixture, s) for s in LEVELS])


def geometric(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "chain_steps 1": {"chain_steps": 1},
    "chain_steps 4": {"chain_steps": 4},
    "lowest 0.1": {"lowest": 0.1},
    "draws 3": {"draws": 3},
    "draws 6": {"draws": 6},
    "weight 0.3": {"weight": 0.3},
    "weight 3": {"weight": 3.0},
    "start 0.25": {"start": 0.25},
    "start 0.75": {"start": 0.75},
}


def at_equal_cost(variant: dict[str, Any]) -> dict[str, Any]:
    """The variant with the share of the batch that makes the whole run cost what the default's does."""
    default = build_config({})
    changes = {f"consistency.{key}": value for key, value in variant.items()}
    config = build_config(changes)
    extra = (relative_cost(default) - 1) / (1 - config.consistency.start)
    share = config.consistency.batch_share * extra / (step_cost(config) - 1)
    return changes | {"consistency.batch_share": round(share, 4)}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--length", type=float, default=1.0, help="of a run, as a share of the one documented")
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    runs = {"without consistency": {"objective.kind": "ambient"}}
    runs |= {name: at_equal_cost(VARIANTS[name]) for name in asked.variants}
    print(f"| variant | batch_share | {' | '.join(asked.problems)} |\n|---|---|{'---|' * len(asked.problems)}")
    for name, changes in runs.items():
        errors = []
        for problem in asked.problems:
            images = int(asked.length * OF_PROBLEM[problem]["training"]["images"])
            values = [error_of(problem, seed, changes | {"training.images": images}) for seed in range(asked.seeds)]
            errors.append(geometric(values))
        share = changes.get("consistency.batch_share", 0.0)
        print(f"| {name} | {share:.3f} | {' | '.join(f'{error:.4f}' for error in errors)} |", flush=True)


if __name__ == "__main__":
    main()
