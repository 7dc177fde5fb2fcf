"""Sweeps made up from real configs and records, written through records.py."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ambient_sweep.config import Config, build_config, dump
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.results.export import build_tables
from ambient_sweep.sweep.confirmation import Plan, plan
from ambient_sweep.sweep.space.definition import Confirm
from ambient_sweep.trial.records import (
    EvaluationRecord,
    TrialRecord,
    read_evaluations,
    write_evaluation,
    write_remeasurement,
    write_trial,
)

CLASSIFIER = {
    "evaluation.distances": ["fd_classifier", "fd_pixels"],
    "evaluation.fidelity": "fd_classifier",
    "evaluation.samples": 500,
}


def make_trial(trial_id: str, config: Config, **changes: Any) -> TrialRecord:
    images = config.images_at(config.training.stop)
    fields: dict[str, Any] = {
        "trial_id": trial_id, "role": "search", "status": "completed", "reason": None, "config": dump(config),
        "images_asked": images, "images_done": images, "images_executed": images, "device_seconds": 31.5,
        "parameters": 570_000, "device": "cpu", "started": "2026-01-31T12:00:00+00:00",
        "finished": "2026-01-31T13:00:31.250000+01:00", "data_fingerprint": "d0d0", "reference_key": "4ef4",
        "versions": {"python": "3.11.7", "torch": "2.9.0"}, "code_revision": None,
    }  # fmt: skip
    return TrialRecord(**(fields | changes))


def make_evaluation(
    trial_id: str, config: Config, fidelity: float, memorization: float,
    fraction: float = 1.0, endpoint: str = "zero", **changes: Any,
) -> EvaluationRecord:  # fmt: skip
    n = config.evaluation.samples
    images = config.images_at(fraction)
    fields: dict[str, Any] = {
        "trial_id": trial_id, "images": images, "fraction": fraction, "endpoint": endpoint,
        "main_endpoint": endpoint == config.main_endpoint(images), "samples": n, "seed": config.evaluation.seed,
        "seconds": 2.5,
        "measures": {
            config.evaluation.fidelity: Measure(fidelity, fidelity * 0.93, fidelity * 1.07, n),
            "mem_excess": Measure(memorization, max(memorization - 0.015, -0.01), memorization + 0.02, n),
            "mem_ratio": Measure(max(0.0, memorization / 3), 0.0, 1.0, n),
        },
        "fidelity": config.evaluation.fidelity, "memorization": config.evaluation.memorization,
        "checkpoint": f"trials/{trial_id}/checkpoints/images-{images:09d}",
    }  # fmt: skip
    return EvaluationRecord(**(fields | changes))


def add(root: Path, trial_id: str, values: dict[str, Any], points: list[tuple[Any, ...]], **changes: Any) -> Config:
    """One trial with evaluations, each (fidelity, memorization[, fraction[, endpoint]])."""
    config = build_config(CLASSIFIER, values)
    write_trial(root, make_trial(trial_id, config, **changes))
    for point in points:
        write_evaluation(root, make_evaluation(trial_id, config, *point))
    return config


def fill(root: Path, trials: int = 24) -> Path:
    """A sweep that looks like one on digits: memorization grows with length and falls with noise."""
    rng = np.random.default_rng(0)
    lengths = (0.25, 0.5, 0.75, 1.0)
    clean = {"observed.sigma": 0.0, "objective.kind": "denoising"}
    points: list[tuple[Any, ...]] = [(28.0 + 22 / (4 * f), 0.42 * f**1.5 - 0.01, f) for f in lengths]
    add(root, "baseline-0", clean, points, role="baseline")
    for i in range(trials):
        sigma = float(rng.choice([0.1, 0.2, 0.3, 0.5]))
        points = []
        for f in lengths:
            distance = (27 + 60 * sigma**1.5 + 18 * (1 - f)) * rng.uniform(0.9, 1.1)
            copies = float(max(0.45 * f**1.5 * np.exp(-9 * sigma**1.6) + rng.normal(0, 0.01), -0.01))
            points += [(distance, copies, f, "observed"), (distance * rng.uniform(0.95, 1.2), copies * 0.8, f)]
        add(root, f"trial-{i:03d}", {"observed.sigma": sigma, "seed": i}, points)
    add(root, "trial-bad", {"observed.sigma": 0.4}, [], status="failed", reason="loss is not finite at image 6400")
    return root


def confirm(root: Path) -> None:
    """Measures what could be on the frontier of a made-up sweep again, then the frontier once more, as a sweep does."""
    rng, records = np.random.default_rng(1), {(e.trial_id, e.images, e.endpoint): e for e in read_evaluations(root)}
    while (step := plan(build_tables(root).evaluations, Confirm(), {})) != Plan():
        for again in step.remeasurements:
            for record in (e for (trial, n, _), e in records.items() if (trial, n) == (again.trial_id, again.images)):
                measures = dict(record.measures)
                for name, m in record.measures.items():
                    value = m.value + (m.high - m.low) / 8 * rng.normal() if name == record.fidelity else m.value
                    arms = (value - (m.value - m.low) / 2, value + (m.high - m.value) / 2)
                    measures[name] = Measure(value, *arms, again.samples)
                fields = {"seed": again.seed, "samples": again.samples, "seconds": 90.0, "measures": measures}
                write_remeasurement(root, replace(record, **fields))
