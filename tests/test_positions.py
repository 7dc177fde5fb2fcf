"""Where a run is evaluated."""

from ambient_sweep.config import build_config
from ambient_sweep.config.positions import evaluated_lengths

BASE = {"training": {"images": 3200, "batch_size": 32}, "evaluation": {"samples": 100, "lengths": [0.5, 1.0]}}


def test_a_run_is_evaluated_at_its_lengths_and_where_it_stops() -> None:
    assert evaluated_lengths(build_config(BASE)) == {1600: 0.5, 3200: 1.0}
    assert evaluated_lengths(build_config(BASE, {"training.stop": 0.75})) == {1600: 0.5, 2400: 0.75}
    assert evaluated_lengths(build_config(BASE, {"training.stop": 0.5})) == {1600: 0.5}
