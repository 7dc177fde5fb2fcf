"""What carries a model below the noise level: `python tests/benchmarks/below_the_noise.py --to FOLDER [--seeds N]`.

Problems: the mixture of six modes in 8 dimensions (20,000 points, sigma_n = 0.3), judged by the energy distance of samples
to clean points, and two sets of images, judged as a sweep judges them: scikit-learn's digits (by an MLP, and by a U-Net),
and colour patches of its two photographs. Ways: sampling stopped at sigma_n or taken on to 0 without training there,
consistency, distillation, and clean training stopped early. Consistency and distillation are run over as many images as
plain ambient training, and over as many network passes (`config.cost`).

FOLDER keeps every trial and every figure: called again, the script measures what is missing, and prints all.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_images

sys.path.insert(0, str(Path(__file__).parents[1]))
from closed_forms import energy_distance, six_modes

from ambient_sweep.config import Config, build_config
from ambient_sweep.config.cost import plain_images
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.stages.stages import Stages
from ambient_sweep.training.loop import train
from ambient_sweep.training.state import TrainState
from ambient_sweep.trial.records import known_trial, read_trial_evaluations
from ambient_sweep.trial.retention import discard
from ambient_sweep.trial.run import run_trial
from ambient_sweep.trial.samples import generate
from ambient_sweep.trial.setup import prepare

MIXTURE: dict[str, Any] = {
    "observed.sigma": 0.3,
    "noise": {"mean": -0.5, "std": 1.0},
    "model": {"kind": "mlp", "width": 64, "blocks": 2},
    "optimizer": {"lr": 3e-3, "warmup": 0.08},
    "ema": {"halflife": 20_000, "rampup": 0.2},
    "training": {"images": 384_000, "batch_size": 128},
    "sampling.sigma_max": 20.0,
    "evaluation": {"lengths": [1.0], "samples": 4000},
}
DIGITS: dict[str, Any] = {
    "data.heldout_size": 797,
    "model": {"kind": "mlp", "width": 256, "blocks": 2, "sigma_data": 0.6},
    "noise": {"mean": -0.5, "std": 1.0},
    "optimizer": {"lr": 0.003, "warmup": 0.08},
    "ema": {"halflife": 9000, "rampup": 1.0},
    "training": {"images": 307_200, "batch_size": 64},
    "sampling.sigma_max": 20.0,
    "evaluation": {
        "lengths": [0.5, 1.0],
        "samples": 2000,
        "distances": ["fd_classifier", "fd_lite0@32", "fd_pixels"],
        "fidelity": "fd_classifier",
        "extras": ["precision", "recall"],
    },
}
UNET: dict[str, Any] = {**DIGITS, "model": {"kind": "unet", "width": 16, "blocks": 1, "levels": 2, "sigma_data": 0.6}}
PATCHES: dict[str, Any] = {
    **DIGITS,
    "data.heldout_size": 1000,
    "data.source": "array",
    "data.channels": 3,
    "data.label_column": "label",
}
PROBLEMS = ("mixture", "digits", "unet", "patches")
SHOWN = ("fd_classifier", "fd_lite0@32", "fd_pixels", "precision", "recall", "mem_excess")
CLEAN = {"objective.kind": "denoising", "observed.sigma": 0.0, "evaluation.lengths": [0.125, 0.25, 0.5, 1.0]}
WAYS: dict[str, dict[str, Any]] = {
    "clean": CLEAN,
    "ambient": {"objective.kind": "ambient"},
    "consistency": {},
    "consistency, early": {"consistency.start": 0.1, "consistency.weight": 0.3},
    "distilled": {"objective.kind": "ambient_distilled"},
}


def relative_cost(config: Config) -> float:
    """Network passes of a whole run over those of ambient training of the same images."""
    return plain_images(config, config.length) / config.length


def runs(ways: list[str], base: dict[str, Any], *changes: dict[str, Any]) -> Iterator[tuple[str, Config]]:
    """Each way by its name, over equal images and, where it costs more, over equal passes."""
    for name in ways:
        way = WAYS[name]
        config = build_config(base, *changes, way)
        yield f"{name}", config
        if (cost := relative_cost(config)) > 1:
            fewer = {"training.images": round(config.training.images / cost)}
            yield f"{name}, equal passes", build_config(base, *changes, way, fewer)


# -- the mixture ------------------------------------------------------------------------------------------------------


def mixture(folder: Path, seeds: int, length: float) -> None:
    print("| mixture, 8-D | endpoint | energy distance by seed |\n|---|---|---|")
    rows: dict[tuple[str, str], list[float]] = {}
    for seed in range(seeds):
        images = {"seed": seed, "training.images": int(length * MIXTURE["training"]["images"])}
        ways = runs(list(WAYS)[1:], MIXTURE, images)
        for name, config in (*_clean(images), *ways):
            file = folder / f"mixture {name} {seed}.json"
            if not file.exists():
                file.write_text(json.dumps(_energies(config)))
            for endpoint, value in json.loads(file.read_text()).items():
                rows.setdefault((name, endpoint), []).append(value)
    for (name, endpoint), values in rows.items():
        print(f"| {name} | {endpoint} | {' / '.join(f'{value:.4f}' for value in values)} |", flush=True)


def _clean(images: dict[str, Any]) -> Iterator[tuple[str, Config]]:
    """Clean training, stopped at the lengths at which that of images is evaluated."""
    for stop in CLEAN["evaluation.lengths"]:
        changes = {**CLEAN, "evaluation.lengths": [1.0], "training.stop": stop}
        yield f"clean, {stop:g} of the run", build_config(MIXTURE, images, changes)


def _energies(config: Config) -> dict[str, float]:
    """The energy distance of samples to clean points, by endpoint."""
    generator = torch.Generator().manual_seed(config.seed)
    x0 = six_modes().draw(20_000, generator).float()
    sigma = config.observed.sigma
    y = x0 + sigma * torch.randn(x0.shape, generator=generator)
    state = TrainState.create(config, (1, 1, x0.shape[-1]))
    for _ in train(config, ObservedImages(y, torch.full((len(y),), sigma)), state):
        pass
    clean = six_modes().draw(4000, torch.Generator().manual_seed(-1 - config.seed))
    endpoints, count = config.endpoints(state.images), config.evaluation.samples
    made = generate(config, state.average, state.shape, count, 0, endpoints=endpoints)
    return {endpoint: energy_distance(samples, clean) for endpoint, samples in made.items()}


# -- images -----------------------------------------------------------------------------------------------------------


def patches(file: Path) -> None:
    """Writes scikit-learn's two photographs, halved by area, as 2,080 patches of 8 x 8 pixels, each with its photograph."""
    found, labels = [], []
    for label, photo in enumerate(load_sample_images().images):
        rows, columns = photo.shape[0] // 16, photo.shape[1] // 16
        cut = photo[: rows * 16, : columns * 16].reshape(rows, 8, 2, columns, 8, 2, 3).mean((2, 5))
        found.append(cut.transpose(0, 2, 1, 3, 4).reshape(-1, 8, 8, 3))
        labels += [label] * len(found[-1])
    np.savez(file, image=np.rint(np.concatenate(found)).astype(np.uint8), label=labels)


def images(root: Path, problem: Config, what: str, sigma: float, seeds: int, ways: list[str]) -> None:
    prepare(problem, root)
    print(f"| {what}, sigma {sigma:g} | images | sampled to | {' | '.join(SHOWN)} |\n|{'---|' * (3 + len(SHOWN))}")
    rows: dict[tuple[str, int, str], list[dict[str, float]]] = {}
    for seed in range(seeds):
        for name, config in runs(ways, problem.model_dump(), {"observed.sigma": sigma, "seed": seed}):
            trial = f"{name} {'' if name == 'clean' else f'{sigma:g} '}{seed}".replace(", ", "-").replace(" ", "-")
            record = known_trial(root, trial)
            if record is None or not record.ended:
                run_trial(config, root, trial, stages=Stages(root))
            for each in read_trial_evaluations(root, trial):
                measures = {key: each.measures[key].value for key in SHOWN}
                rows.setdefault((name, each.images, each.endpoint), []).append(measures)
        discard(root, ())
    for place, found in rows.items():
        means = (f"{mean(each[key] for each in found):.4g}" for key in SHOWN)
        print(f"| {' | '.join(map(str, place))} | {' | '.join(means)} |", flush=True)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, help="folder of trials and figures")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 500, 150], help="training images")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.2, 0.3, 0.4, 0.5])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="for images")
    parser.add_argument("--length", type=float, default=1.0, help="of a run, as a share of the one documented")
    parser.add_argument("--samples", type=int, default=2000)
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    asked.to.mkdir(parents=True, exist_ok=True)
    if "mixture" in asked.problems:
        mixture(asked.to, asked.seeds, asked.length)
    file = asked.to / "patches.npz"
    patches(file)
    for name, base in (("digits", DIGITS), ("unet", UNET), ("patches", {**PATCHES, "data.path": str(file)})):
        for size in asked.sizes if name in asked.problems else ():
            length = {"training.images": int(asked.length * base["training"]["images"])}
            problem = build_config(base, {"data.train_size": size, "evaluation.samples": asked.samples}, length)
            for sigma in asked.sigmas:
                images(asked.to / f"{name}-{size}", problem, f"{size} {name}", sigma, asked.seeds, asked.ways)


if __name__ == "__main__":
    main()
