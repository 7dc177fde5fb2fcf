from pathlib import Path

import numpy as np
import pytest
from made_up_sweeps import add, fill

from ambient_sweep import pareto
from ambient_sweep.results.candidates import candidates, objectives
from ambient_sweep.results.curves import attainment_image, history_image
from ambient_sweep.results.history import hypervolume_history, reference_point, seed_fronts
from ambient_sweep.results.table import export_tables
from ambient_sweep.trial.records import read_trial


def test_a_history_known_by_hand(tmp_path: Path) -> None:
    """b starts first; a goes on from its half, so that a's own half of the run costs what it trained there."""
    add(tmp_path, "b", {"observed.sigma": 0.2}, [(40.0, 0.1, 0.5), (30.0, 0.3, 1.0)],
        started="2026-01-31T12:00:00+00:00", images_executed=200_000, device_seconds=40.0)  # fmt: skip
    add(tmp_path, "a", {"consistency.start": 0.7, "observed.sigma": 0.2}, [(40.0, 0.1, 0.5), (20.0, 0.2, 1.0)],
        started="2026-01-31T12:00:01+00:00", images_executed=100_032, device_seconds=10.0, stage="s",
        forked_at=99_968, taken=((0, 99_968),))  # fmt: skip
    tables = export_tables(tmp_path)
    history = hypervolume_history(*tables, reference=np.array([50.0, 0.5]))
    assert history.images.tolist() == [99_968, 200_000, 200_000, 300_032]
    assert history.seconds == pytest.approx([40 * 99_968 / 200_000, 40, 40, 50])
    first, second = 10 * 0.4, 10 * 0.4 + 10 * 0.2
    assert history.volume == pytest.approx([first, second, second, 10 * 0.4 + 20 * 0.3])
    assert hypervolume_history(*tables).reference == pytest.approx([42.0, 0.21]), "b's last point is beaten"


def test_what_a_trial_trained_between_two_forks_is_counted_where_it_was_trained(tmp_path: Path) -> None:
    """Of 1000 images it trained 0 to 400 and 600 to 1000 by itself, the first 400 twice."""
    add(tmp_path, "a", {"training.images": 1024, "training.batch_size": 32}, [(4.0, 0.4, 0.25), (3.0, 0.3, 1.0)],
        images_executed=1600, device_seconds=16.0, stage="s", forked_at=768, taken=((256, 512), (640, 768)))  # fmt: skip
    trial = read_trial(tmp_path, "a")
    assert [trial.executed_at(n) for n in (0, 256, 400, 512, 640, 700, 1024)] == [0, 640, 640, 640, 960, 960, 1600]
    tables = export_tables(tmp_path)
    assert tables.evaluations["images_executed"].to_pylist() == [640, 1600]
    history = hypervolume_history(*tables)
    assert (history.images.tolist(), history.seconds.tolist()) == ([640, 1600], [6.4, 16.0])


def test_a_history_ends_at_the_hypervolume_and_never_falls(tmp_path: Path) -> None:
    tables = export_tables(fill(tmp_path / "sweep", trials=15))
    history = hypervolume_history(*tables)
    points = objectives(candidates(tables.evaluations))
    assert history.volume[-1] == pytest.approx(pareto.hypervolume(points, reference_point(tables.evaluations)))
    for each in (history.volume, history.images, history.seconds):
        assert (np.diff(each) >= 0).all()
    assert history.images[-1] <= sum(tables.trials["images_executed"].to_pylist())
    assert history_image(history, ("fd_classifier", "mem_excess")).startswith(b"\x89PNG")


def test_fronts_of_seeds_are_those_of_replicates(tmp_path: Path) -> None:
    add(tmp_path, "a", {"observed.sigma": 0.2}, [(20.0, 0.3)])
    assert attainment_image(export_tables(tmp_path).evaluations) is None
    for seed in (4, 5):
        values = {"observed.sigma": 0.2, "seed": seed}
        points = [(20.0 + seed, 0.3), (np.nan, 0.2, 0.5)]
        add(tmp_path, f"a{seed}", values, points, role="replicate", replicate_of="a")
    table = export_tables(tmp_path).evaluations
    assert {seed: front.tolist() for seed, front in seed_fronts(table).items()} == {4: [[24.0, 0.3]], 5: [[25.0, 0.3]]}
    picture = attainment_image(table)
    assert picture is not None
    assert picture.startswith(b"\x89PNG")
    assert np.isnan(reference_point(table.slice(0, 0))).all()
