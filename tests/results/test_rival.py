"""The sentence on what noise buys over clean training."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_up_sweeps import add
from test_confirmed import rows

from ambient_sweep.errors import UserError
from ambient_sweep.results.export import build_tables
from ambient_sweep.results.frontier.rival import what_noise_buys
from ambient_sweep.results.frontier.select import select, untouched_line
from ambient_sweep.results.tables import schema
from ambient_sweep.sweep.confirmation import Plan, plan
from ambient_sweep.sweep.space.definition import Confirm
from ambient_sweep.trial.records import read_evaluations, write_remeasurement

CLEAN = {"observed.sigma": 0.0, "objective.kind": "denoising"}


def sentence(root: Path, clean: list[tuple[float, ...]], noisy: tuple[float, float], rule: str = "knee") -> str:
    if clean:
        add(root, "clean", CLEAN, clean, role="baseline")
    add(root, "noisy", {"observed.sigma": 0.3}, [noisy])
    table = build_tables(root).evaluations
    return what_noise_buys(table, select(table, rule))


def test_the_gain_is_that_over_clean_training_that_memorizes_as_much(tmp_path: Path) -> None:
    """Half way between lengths of fidelity 60 and 40, clean training has 50."""
    clean = [(60.0, 0.0, 0.25), (40.0, 0.1, 0.5), (15.0, 0.5, 1.0)]
    found = sentence(tmp_path, clean, (20.0, 0.05), "max-memorization=0.1")
    assert found.startswith("fd_classifier is lower by 30 (95 % interval ")
    assert found.endswith("whether noise or the seed made it so, baseline.seeds=[0,1,2] would tell.")


def test_seeds_of_clean_training_widen_the_interval(tmp_path: Path) -> None:
    clean = [(60.0, 0.0, 0.25), (40.0, 0.1, 0.5)]
    add(tmp_path, "again", CLEAN | {"seed": 1}, [(66.0, 0.0, 0.25), (44.0, 0.1, 0.5)], role="baseline")
    found = sentence(tmp_path, clean, (20.0, 0.05), "max-memorization=0.1")
    low, high = map(float, re.search(r"interval (\S+) to (\S+), seeds included", found).groups())
    alone = sentence(tmp_path / "alone", clean, (20.0, 0.05), "max-memorization=0.1")
    least, most = map(float, re.search(r"interval (\S+) to (\S+), without", alone).groups())
    assert low < least < most < high


@pytest.mark.parametrize(("fidelity", "words"), [(39.0, "lower by 1 (95 % interval -"), (45.0, "lower by -5")])
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


def test_the_untouched_base_is_a_reference_and_no_rival(tmp_path: Path) -> None:
    """Better than all in both objectives, at sigma 0: neither a candidate nor clean training, and measured as often."""
    untouched = CLEAN | {"optimizer.lr": 0.0}
    add(tmp_path, "base", untouched, [(5.0, 0.0)], role="control")
    assert untouched_line(build_tables(tmp_path).evaluations).startswith(
        "Untouched base: fd_classifier 5 [4.65, 5.35], "
    )
    with pytest.raises(UserError, match="nothing to pick from"):
        select(build_tables(tmp_path).evaluations, "knee")
    assert "no clean training (baseline) was measured" in sentence(tmp_path, [], (20.0, 0.1))
    table = build_tables(tmp_path).evaluations
    assert select(table, "knee").row["trial_id"] == "noisy"
    assert table.filter(table["on_front"])["trial_id"].to_pylist() == ["noisy"]
    again = plan(table, Confirm(samples="4x"), {}).remeasurements
    assert {each.trial_id for each in again} == {"base", "noisy"}
    (record,) = [each for each in read_evaluations(tmp_path) if each.trial_id == "base"]
    write_remeasurement(tmp_path, replace(record, seed=1, samples=2000))
    assert " on 2,000 samples; memorization beyond this is what fine" in untouched_line(
        build_tables(tmp_path).evaluations
    )


def planted_sentence(number: int, share: float) -> str:
    """Of a confirmed sweep where noise has `share` of the fidelity of clean training at equal memorization, and runs scatter
    by 5 % over seeds: three clean trainings at eight lengths each, and 60 trainings with noise."""
    rng = np.random.default_rng(number)
    lengths = np.tile(np.linspace(0.125, 1, 8), 3)
    t, clean = np.concatenate([lengths, rng.uniform(0.1, 1, 60)]), np.arange(84) < 24
    truth = np.stack([(10 + 20 * (1 - t) ** 1.5) * np.where(clean, 1, share), 0.4 * t**1.5], axis=1)
    truth *= 1 + 0.05 * rng.normal(size=truth.shape)
    error = np.stack([0.025 * truth[:, 0], np.sqrt(np.clip(truth[:, 1] + 0.01, 1e-3, 1) / 500)], axis=1)
    given = {
        schema.SIGMA: np.where(clean, 0.0, 0.3), schema.OBJECTIVE: np.where(clean, "denoising", "ambient_consistency"),
        schema.ROLE: np.where(clean, "baseline", "search"), schema.IMAGES: np.where(clean, t * 2e5, 2e5).astype(int),
        schema.SEED: np.where(clean, np.arange(84) // 8, np.arange(84)),
    }  # fmt: skip

    def measured(trials: np.ndarray, seed: int, samples: int) -> pa.Table:
        noise = error[trials] * np.sqrt(500 / samples)
        table = rows(trials, truth[trials] + noise * rng.normal(size=(len(trials), 2)), noise, seed, samples)
        for name, values in given.items():
            position = table.schema.get_field_index(name)
            field = table.schema.field(position)
            table = table.set_column(position, field, pa.array(values[trials].tolist(), field.type))
        return table

    table = measured(np.arange(84), 0, 500)
    while (step := plan(table, Confirm(), {})) != Plan():
        again = np.array([int(each.trial_id[1:]) for each in step.remeasurements])
        table = pa.concat_tables([table, measured(again, step.remeasurements[0].seed, 2000)])
    return what_noise_buys(table, select(table, "knee"))


def test_noise_is_said_to_buy_something_only_where_it_does() -> None:
    nothing = [planted_sentence(number, 1.0) for number in range(40)]
    assert sum(not sentence.startswith("Noise buys nothing") for sentence in nothing) <= 4  # 2 expected at most
    bought = [planted_sentence(number, 0.7) for number in range(10)]
    assert all(sentence.startswith("Noise buys fd_classifier lower by") for sentence in bought)
