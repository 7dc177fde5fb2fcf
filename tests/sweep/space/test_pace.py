"""How long a training and its evaluations take, from images and network passes per second."""

import pytest

from ambient_sweep.config import build_config
from ambient_sweep.config.cost import step_cost
from ambient_sweep.sweep.checks.dry_run import ENCODED, Pace

BASE = {
    "objective.kind": "ambient_distilled",
    "distillation.start": 0.5,
    "training": {"images": 64_000, "batch_size": 64},
    "evaluation": {"samples": 1000, "lengths": [0.25, 0.5, 0.75, 1.0]},
    "sampling.steps": 18,
}


def test_a_teacher_is_sampled_in_many_passes_and_its_generator_in_one() -> None:
    config, pace = build_config(BASE), Pace(trained=100.0, passed=500.0)
    teacher, generator = 1000 * (35 / 500 + 2 / ENCODED), 1000 * (1 / 500 + 1 / ENCODED)
    assert pace.evaluation(config) == pytest.approx((teacher + generator) / 2)
    assert pace.training(config) == pytest.approx((1 + step_cost(config)) / 2 / 100, rel=1e-4)
    ambient = build_config(BASE, {"objective.kind": "ambient"})
    assert pace.evaluation(ambient) == pytest.approx(teacher)
    assert pace.training(ambient) == pytest.approx(0.01)
