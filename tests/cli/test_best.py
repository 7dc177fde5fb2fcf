"""What `best` says and writes of a sweep whose frontier was measured again."""

from dataclasses import replace
from pathlib import Path

import pytest
from command_line import good
from made_up_sweeps import CLASSIFIER, add

from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.trial.records import read_evaluations, write_evaluation, write_remeasurement

POINTS = {
    "a": (0.2, [(10.0, 0.3, 1.0, "zero"), (8.0, 0.4, 1.0, "observed")]),
    "b": (0.3, [(14.0, 0.1, 1.0, "zero")]),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three points on the frontier; by the samples that state them, each distance is larger by 1."""
    root = tmp_path / "run"
    for name, (sigma, points) in POINTS.items():
        add(root, name, {"observed.sigma": sigma}, list(points))
    for record in read_evaluations(root):
        for seed, more in ((1, 0.0), (2, 1.0)):
            value = record.measures["fd_classifier"].value + more
            measures = record.measures | {"fd_classifier": Measure(value, value - 1, value + 1, 2000)}
            write_remeasurement(root, replace(record, seed=seed, samples=2000, measures=measures))
    return root


def test_best_says_why_not_the_other_endpoint_and_by_which_samples(run: Path) -> None:
    good("report", run)
    by, bounded = "by the samples that made the choice", good("best", run, "--rule", "max-memorization=0.3")
    assert "sampled to zero: fd_classifier 11 [10, 12]" in bounded
    assert f"not trial b after 200,000 images, sampled to zero: fd_classifier 14, against 10, {by}\n" in bounded
    assert "not trial a after 200,000 images, sampled to observed: mem_excess 0.4 > 0.3\n" in bounded, "as it is stated"
    knee = [line for line in good("best", run).splitlines() if line.startswith("not trial")]
    assert len({line.partition(":")[0] for line in knee}) == len(knee) == 2
    assert all(line.endswith(by) for line in knee)


def test_a_generator_that_is_unusable_is_picked_with_a_warning(tmp_path: Path) -> None:
    add(tmp_path, "a", {"observed.sigma": 0.2}, [(10.0, 0.3)])
    (record,) = read_evaluations(tmp_path)
    write_evaluation(tmp_path, replace(record, problem="unusable generator after 9 images: why; cure"))
    good("report", tmp_path)
    said = good("best", tmp_path)
    assert said.startswith("warning: unusable generator after 9 images: why; cure\n")
    assert ", unusable\n" in next(line + "\n" for line in said.splitlines() if line.startswith("best  "))


def test_without_a_confirmation_there_is_one_kind_of_values(tmp_path: Path) -> None:
    for name, (sigma, points) in POINTS.items():
        add(tmp_path, name, {"observed.sigma": sigma}, list(points))
    good("report", tmp_path)
    assert "by the samples" not in good("best", tmp_path)


def test_the_file_that_a_sweep_writes_is_that_of_best(run: Path) -> None:
    good("report", run)
    out = run.parent / "best.yaml"
    good("best", run, "--out", out)
    assert out.read_bytes() == (run / "best.yaml").read_bytes()
    head = out.read_text().splitlines()[:2]
    assert head[0].startswith("# run, knee: the knee of the frontier")
    assert head[1].startswith("# trial ")
    assert CLASSIFIER["evaluation.fidelity"] in head[1]
