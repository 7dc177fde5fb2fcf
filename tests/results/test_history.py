from pathlib import Path

import numpy as np
import pytest
from made_up_sweeps import add, fill

from ambient_sweep import pareto
from ambient_sweep.results.export import build_tables
from ambient_sweep.results.frontier.candidates import candidates, objectives
from ambient_sweep.results.frontier.history import hypervolume_history, reference_point
from ambient_sweep.trial.records import read_trial


def test_a_history_known_by_hand(tmp_path: Path) -> None:
    """b starts first; a goes on from its half, so that a's own half of the run costs what it trained there."""
    add(tmp_path, "b", {"observed.sigma": 0.2}, [(40.0, 0.1, 0.5), (30.0, 0.3, 1.0)],
        started="2026-01-31T12:00:00+00:00", images_executed=200_000, device_seconds=40.0)  # fmt: skip
    add(tmp_path, "a", {"consistency.start": 0.7, "observed.sigma": 0.2}, [(40.0, 0.1, 0.5), (20.0, 0.2, 1.0)],
        started="2026-01-31T12:00:01+00:00", images_executed=100_032, device_seconds=10.0, stage="s",
        forked_at=99_968, taken=((0, 99_968),))  # fmt: skip
    history = hypervolume_history(*build_tables(tmp_path))
    assert history.reference == pytest.approx([42.0, 0.21]), "b's last point is dominated"
    assert history.images.tolist() == [99_968, 200_000, 200_000, 300_032]
    assert history.seconds == pytest.approx([40 * 99_968 / 200_000, 40, 40, 50])
    first = 2 * 0.11
    assert history.volume == pytest.approx([first, first, first, first + 20 * 0.01])


def test_what_a_trial_trained_between_two_forks_is_counted_where_it_was_trained(tmp_path: Path) -> None:
    """Of 1000 images it trained 0 to 400 and 600 to 1000 by itself, the first 400 twice."""
    add(tmp_path, "a", {"training.images": 1024, "training.batch_size": 32}, [(4.0, 0.4, 0.25), (3.0, 0.3, 1.0)],
        images_executed=1600, device_seconds=16.0, stage="s", forked_at=768, taken=((256, 512), (640, 768)))  # fmt: skip
    trial = read_trial(tmp_path, "a")
    assert [trial.executed_at(n) for n in (0, 256, 400, 512, 640, 700, 1024)] == [0, 640, 640, 640, 960, 960, 1600]
    history = hypervolume_history(*build_tables(tmp_path))
    assert (history.images.tolist(), history.seconds.tolist()) == ([640, 1600], [6.4, 16.0])


def test_a_history_ends_at_the_hypervolume_and_never_falls(tmp_path: Path) -> None:
    tables = build_tables(fill(tmp_path / "sweep", trials=6))
    history = hypervolume_history(*tables)
    points = objectives(candidates(tables.evaluations))
    assert history.volume[-1] == pytest.approx(pareto.hypervolume(points, reference_point(tables.evaluations)))
    for each in (history.volume, history.images, history.seconds):
        assert (np.diff(each) >= 0).all()
    assert history.images[-1] <= sum(tables.trials["images_executed"].to_pylist())
