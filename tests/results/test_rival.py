"""The sentence on what noise buys over clean training."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_sweeps import add

from ambient_sweep.results.export import build_tables
from ambient_sweep.results.frontier.rival import what_noise_buys
from ambient_sweep.results.frontier.select import select
from ambient_sweep.trial.records import read_evaluations, write_remeasurement

CLEAN = {"observed.sigma": 0.0, "objective.kind": "denoising"}


def sentence(root: Path, clean: list[tuple[float, ...]], noisy: tuple[float, float], rule: str = "knee") -> str:
    if clean:
        add(root, "clean", CLEAN, clean, role="baseline")
    add(root, "noisy", {"observed.sigma": 0.3}, [noisy])
    table = build_tables(root).evaluations
    return what_noise_buys(table, select(table, rule))


def test_the_gain_is_that_over_the_best_clean_training_that_memorizes_no_more(tmp_path: Path) -> None:
    """Intervals of 7 % of the value to both sides: the difference of 40 and 20 has one of sqrt(2.8^2 + 1.4^2)."""
    clean = [(60.0, 0.0, 0.25), (40.0, 0.05, 0.5), (15.0, 0.5, 1.0)]
    assert sentence(tmp_path, clean, (20.0, 0.05), "max-memorization=0.1") == (
        "Noise buys fd_classifier lower by 20 (95 % interval 16.9 to 23.1) than clean training that memorizes no more, "
        "after 99,968 images."
    )


@pytest.mark.parametrize(("fidelity", "words"), [(39.0, "lower by 1 (95 % interval -2.9"), (45.0, "lower by -5")])
def test_a_gain_within_its_interval_is_none(tmp_path: Path, fidelity: float, words: str) -> None:
    found = sentence(tmp_path, [(40.0, 0.05, 0.5)], (fidelity, 0.05), "max-memorization=0.05")
    if fidelity < 40:
        assert found.startswith(f"Noise buys nothing that these data show: fd_classifier {words}")
    else:
        assert found == (
            "Noise buys nothing that these data show: the choice is clean training, stopped after 99,968 images."
        )


def test_a_confirmation_that_has_not_come_to_clean_training_is_said(tmp_path: Path) -> None:
    """Interrupted after its first measurement, of a noisy model."""
    sentence(tmp_path, [(40.0, 0.05, 0.5)], (20.0, 0.05))
    (record,) = [each for each in read_evaluations(tmp_path) if each.trial_id == "noisy"]
    write_remeasurement(tmp_path, replace(record, seed=1, samples=2000))
    table = build_tables(tmp_path).evaluations
    assert "was measured on as many samples" in what_noise_buys(table, select(table, "knee"))


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    assert "no clean training (baseline) was measured" in sentence(tmp_path / "none", [], (20.0, 0.0))
    found = sentence(tmp_path / "loud", [(15.0, 0.5, 1.0), (40.0, 0.2, 0.5)], (50.0, 0.0), "max-memorization=0.1")
    assert found == (
        "No clean training memorizes as little: its least mem_excess is 0.2, after 99,968 images, against 0 with noise."
    )
