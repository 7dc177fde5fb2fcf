"""What consistency settings cost and gain: `python tests/benchmarks/consistency.py recipes|ablation [--seeds N]`.

Problems: mixtures of Gaussians in 2 and 8 dimensions, whose E[x_0 | x_t] is known, and scikit-learn's digits, all
observed at sigma_n = 0.3. Error: geometric mean over the levels sigma_n/6, sigma_n/3 and 2 sigma_n/3, all below the
observed one, and over the seeds; on mixtures relative to the posterior variance, on digits that of held-out images over
sigma^2. Cost: network passes, in plain steps (`training.objective.step_cost`), which do not depend on the machine.

`recipes`: the default beside the papers' recipes at equal images, and the compute that either needs for one error.
`ablation`: one setting changed at a time, the share of the batch such that the whole run costs the same.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from closed_forms import denoising_error, six_modes, two_modes

from ambient_sweep.config import Config, build_config
from ambient_sweep.data.dataset import load_data
from ambient_sweep.data.observed import ObservedImages, observe
from ambient_sweep.diffusion.loss import mean_over_pixels, reverse_step
from ambient_sweep.diffusion.noise import expand
from ambient_sweep.training import objective
from ambient_sweep.training.loop import train
from ambient_sweep.training.objective import step_cost
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


@dataclass(frozen=True)
class Outcome:
    error: float
    cost: float  # of the run, in plain steps' cost per image times images
    seconds: float


def run(problem: str, seed: int, changes: dict[str, Any]) -> Outcome:
    """One training with its error below the observed level."""
    config = build_config(BASE, OF_PROBLEM[problem], {"seed": seed}, changes)
    observed, shape, error = _problem(problem, config)
    state = TrainState.create(config, shape)
    began = time.perf_counter()
    for _ in train(config, observed, state):
        pass
    seconds = time.perf_counter() - began
    return Outcome(error(state.average), state.images * relative_cost(config), seconds)


def relative_cost(config: Config) -> float:
    """Of a whole run, over that of one without consistency."""
    if config.objective.kind != "ambient_consistency":
        return 1.0
    start = config.consistency.start
    return start + (1 - start) * step_cost(config)


def _problem(problem: str, config: Config) -> tuple[Any, tuple[int, int, int], Any]:
    if problem == DIGITS:
        data = load_data(config.data)
        clean = data.heldout.all()

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


def over_seeds(problem: str, seeds: int, changes: dict[str, Any]) -> Outcome:
    outcomes = [run(problem, seed, changes) for seed in range(seeds)]
    return Outcome(geometric([o.error for o in outcomes]), outcomes[0].cost, sum(o.seconds for o in outcomes) / seeds)


# -- recipes --------------------------------------------------------------------------------------------------------

PAPER = {"consistency.preset": "noisy-worth-2411.02780"}
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "2411.02780": PAPER,
    "2411.02780, weight 0.3": PAPER | {"consistency.weight": 0.3},
    "2411.02780, weight 3": PAPER | {"consistency.weight": 3.0},
    "2411.02780, as published": PAPER,
    "2404.10177": {"consistency.preset": "tweedie-2404.10177"},
    "ambient alone": {"objective.kind": "ambient"},
}


def squared_mean_loss(denoiser, x, levels, noise, weight, *, branch, draws, teacher, rollout_gradient):  # type: ignore
    """The mean of all draws, squared, with gradient on both sides: biased, but what was published."""
    steps = levels.shape[1] - 1
    target = denoiser(x, levels[:, 0])
    with torch.no_grad():
        ends = x.repeat(draws, *[1] * (x.ndim - 1))
        rows, parts = levels.repeat(draws, 1), noise.unflatten(1, (draws, steps)).transpose(0, 1).flatten(0, 1)
        for k in range(steps):
            ends = reverse_step(ends, denoiser(ends, rows[:, k]), rows[:, k], rows[:, k + 1], parts[:, k])
    mean = denoiser(ends, rows[:, -1]).unflatten(0, (draws, len(x))).mean(0)
    return weight * mean_over_pixels((mean - target) ** 2)


def plainly_weighted_loss(denoiser, y, sigma_n, sigma, noise, weight):  # type: ignore
    """The ambient loss weighted by lambda alone."""
    xt = y + expand((sigma**2 - sigma_n**2).clamp_min(0).sqrt()) * noise
    r = expand((sigma_n / sigma) ** 2)
    return weight * mean_over_pixels(((1 - r) * denoiser(xt, sigma) + r * xt - y) ** 2)


@contextmanager
def as_published() -> Iterator[None]:
    """Levels clamped at sigma_n instead of truncated, plain lambda, and the squared mean."""
    truncated = objective.truncated_lognormal

    def clamped(u: Any, mean: float, std: float, above: Any = 0.0, below: Any = math.inf) -> Any:
        return truncated(u, mean, std).clip(above, below)

    with (
        mock.patch.object(objective, "truncated_lognormal", clamped),
        mock.patch.object(objective, "ambient_loss", plainly_weighted_loss),
        mock.patch.object(objective, "consistency_loss", squared_mean_loss),
    ):
        yield


def recipes(seeds: int, problems: tuple[str, ...]) -> None:
    print(
        "| problem | recipe | consistency step / plain | run / plain run | error below sigma_n |\n|---|---|---|---|---|"
    )
    found: dict[tuple[str, str], Outcome] = {}
    for problem in problems:
        for name, changes in RECIPES.items():
            with as_published() if "as published" in name else nullcontext():
                outcome = found[problem, name] = over_seeds(problem, seeds, changes)
            config = build_config(BASE, OF_PROBLEM[problem], changes)
            step = step_cost(config) if config.objective.kind == "ambient_consistency" else 1
            print(
                f"| {problem} | {name} | {step:.2f} | {relative_cost(config):.2f} | {outcome.error:.4f} |", flush=True
            )
    print("\n| problem | error of 2411.02780's recipe | its images | images of the default | compute ratio |")
    print("|---|---|---|---|---|")
    for problem in problems:
        _to_error(problem, seeds, found[problem, "2411.02780"])


def _to_error(problem: str, seeds: int, paper: Outcome) -> None:
    """The shortest run of the default, of its own schedule, that reaches the error of the paper's recipe."""
    images = OF_PROBLEM[problem]["training"]["images"]
    for share in (0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4):
        outcome = over_seeds(problem, seeds, {"training.images": int(share * images)})
        print(f"  {problem}: {share:g} of the images, error {outcome.error:.4f}", file=sys.stderr, flush=True)
        if outcome.error <= paper.error:
            ratio = paper.cost / outcome.cost
            print(f"| {problem} | {paper.error:.4f} | {images:,} | {share * images:,.0f} | {ratio:.2f} |", flush=True)
            return
    print(f"| {problem} | {paper.error:.4f} | {images:,} | not reached with 1.4 times as many | |", flush=True)


# -- ablation -------------------------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "chain_steps 1": {"chain_steps": 1},
    "chain_steps 4": {"chain_steps": 4},
    "branch last": {"branch": "last"},
    "chain_steps 4, branch last": {"chain_steps": 4, "branch": "last"},
    "origin everywhere": {"origin": "everywhere"},
    "levels uniform": {"levels": "uniform"},
    "levels lognormal": {"levels": "lognormal"},
    "largest_gap 0.3": {"largest_gap": 0.3},
    "draws 3": {"draws": 3},
    "draws 6": {"draws": 6},
    "target ema": {"target": "ema"},
    "gradient rollout": {"gradient": "rollout"},
    "level_weight last": {"level_weight": "last"},
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


def ablation(seeds: int, problems: tuple[str, ...]) -> None:
    print(f"| variant | batch_share | {' | '.join(problems)} |\n|---|---|{'---|' * len(problems)}")
    for name, variant in VARIANTS.items():
        changes = at_equal_cost(variant)
        errors = [over_seeds(problem, seeds, changes).error for problem in problems]
        cells = " | ".join(f"{error:.4f}" for error in errors)
        print(f"| {name} | {changes['consistency.batch_share']:.3f} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["recipes", "ablation"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    words = parser.parse_args()
    torch.set_num_threads(1)
    {"recipes": recipes, "ablation": ablation}[words.table](words.seeds, tuple(words.problems))


if __name__ == "__main__":
    main()
