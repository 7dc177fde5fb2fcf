"""How long a training and its evaluations take, from images and network passes per second."""

import pytest

from ambient_sweep.config import build_config
from ambient_sweep.config.cost import step_cost
from ambient_sweep.sweep.checks.dry_run import ENCODED, Pace, expected_time
from ambient_sweep.text import duration

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
    assert pace.evaluation(config) == pytest.approx(2 * teacher + 2 * generator)
    assert pace.training(config) == pytest.approx(640 * (1 + step_cost(config)) / 2, rel=1e-4)
    between = build_config(BASE, {"distillation.start": 0.4})  # where the teacher is evaluated once more, as it ends
    assert pace.evaluation(between) == pytest.approx(2 * teacher + 3 * generator)
    ambient = build_config(BASE, {"objective.kind": "ambient"})
    assert pace.evaluation(ambient) == pytest.approx(4 * teacher)
    assert pace.training(ambient) == pytest.approx(640)


def test_the_expected_time_is_that_of_all_trainings_and_evaluations() -> None:
    pace, configs = Pace(trained=100.0, passed=500.0), [build_config(BASE)]
    configs.append(build_config(BASE, {"objective.kind": "ambient", "training.images": 32_000}))
    training, evaluation = (sum(map(of, configs)) for of in (pace.training, pace.evaluation))
    line = expected_time(configs, pace, 3 * 96_000, concurrent=2)
    text = duration(3 * (training + evaluation) / 2)
    assert line == (
        f"expected time on this machine: about {text}, at {96_000 / training:.3g} images per second in training, "
        "2 trials at once"
    )
