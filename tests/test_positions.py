"""Where a run is evaluated, and on how many samples."""

from ambient_sweep.config import build_config
from ambient_sweep.config.positions import evaluated_lengths, samples_at

BASE = {"training": {"images": 3200, "batch_size": 32}, "evaluation": {"samples": 100, "lengths": [0.5, 1.0]}}
EARLY = {"evaluation.early_samples": 20}


def test_a_run_is_evaluated_at_its_lengths_and_where_it_stops() -> None:
    assert evaluated_lengths(build_config(BASE)) == {1600: 0.5, 3200: 1.0}
    assert evaluated_lengths(build_config(BASE, {"training.stop": 0.75})) == {1600: 0.5, 2400: 0.75}
    assert evaluated_lengths(build_config(BASE, {"training.stop": 0.5})) == {1600: 0.5}


def test_early_evaluations_may_take_fewer_samples() -> None:
    plain, early = build_config(BASE), build_config(BASE, EARLY)
    stopped = build_config(BASE, EARLY, {"training.stop": 0.5})
    assert [samples_at(plain, images) for images in (800, 3200)] == [100, 100]
    assert [samples_at(early, images) for images in (800, 3168, 3200)] == [20, 20, 100]
    assert [samples_at(stopped, images) for images in (800, 1600)] == [20, 100]
