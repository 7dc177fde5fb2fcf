"""Records come back as they were written, or are refused by name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_sweeps import make_evaluation, make_trial

from ambient_sweep.config import Config
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.training.state import BEGIN_AGAIN
from ambient_sweep.trial.records import (
    UNREADABLE_STATE,
    evaluation_path,
    read_evaluation,
    read_evaluations,
    read_trial,
    read_trial_evaluations,
    read_trials,
    trial_path,
    write_evaluation,
    write_trial,
)

TRIAL = make_trial("a", Config(), status="failed", reason="loss is not finite", finished=None)
MEASURES = {"fd_pixels": Measure(float("inf"), None, None, 1000), "mem_excess": Measure(-0.01, -0.01, 0.0, 1000)}
EVALUATION = make_evaluation("a", Config(), 1.0, 0.0, 0.25, measures=MEASURES)


def test_records_come_back_equal(tmp_path: Path) -> None:
    other, later = make_trial("b", Config()), make_evaluation("a", Config(), 31.0, 0.1, 0.5, "observed")
    elsewhere = make_evaluation("b", Config(), 30.0, 0.1)
    assert read_trials(tmp_path) == read_evaluations(tmp_path) == []
    for trial in (other, TRIAL, replace(TRIAL, discarded=64)):
        write_trial(tmp_path, trial)
    for evaluation in (elsewhere, later, EVALUATION):
        write_evaluation(tmp_path, evaluation)
    path = evaluation_path(tmp_path, "a", 49984, "zero")
    assert path == tmp_path / "trials/a/evaluations/images-000049984-zero.json"
    (path.parent / ".images-000000064-zero.json.123.tmp").write_text('{"half')
    assert read_trials(tmp_path) == [replace(TRIAL, discarded=64), other]
    assert read_trial(tmp_path, "b") == other
    assert read_evaluations(tmp_path) == [EVALUATION, later, elsewhere]
    assert read_trial_evaluations(tmp_path, "a") == [EVALUATION, later]
    assert read_evaluation(path, "a") == EVALUATION
    tree = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert tree["measures"]["fd_pixels"]["value"] == "Infinity"
    with pytest.raises(UserError, match=r"trials/c/trial\.json: cannot be read"):
        read_trial(tmp_path, "c")


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ('"images_done": 200000', '"images_done": "many"', "images_done"),
        ('"images_done": 200000,', "", "images_done"),
        ('"device":', '"gadget":', "device"),
        ('"status": "failed"', '"status": "lost"', "status"),
        ('"role": "search"', '"role": "guest"', "role"),
        ("12:00:00+00:00", "12:00:00", "started"),
        ('"trial_id": "a"', '"trial_id": "z"', "trial z"),
        ("}", "", "JSON"),
    ],
)
def test_a_damaged_trial_is_named(tmp_path: Path, before: str, after: str, complaint: str) -> None:
    write_trial(tmp_path, TRIAL)
    path = trial_path(tmp_path, "a")
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(UserError) as caught:
        read_trials(tmp_path)
    assert str(path) in str(caught.value)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_evaluation_is_named(tmp_path: Path) -> None:
    write_evaluation(tmp_path, EVALUATION)
    path = evaluation_path(tmp_path, "a", 49984, "zero")
    for before, after in (('"mem_excess": {', '"mem_else": {'), ('"endpoint": "zero"', '"endpoint": "middle"')):
        write_evaluation(tmp_path, EVALUATION)
        path.write_text(path.read_text().replace(before, after))
        with pytest.raises(UserError, match=r"images-000049984-zero\.json: damaged .*(mem_excess|endpoint)"):
            read_evaluations(tmp_path)


@pytest.mark.parametrize(
    ("status", "reason", "ended"),
    [
        ("running", None, False),
        ("completed", None, True),
        ("failed", "the loss is not finite", True),
        ("failed", "worker failed, after 3 attempts: killed", False),
        ("failed", f"no state can be read; remove them {BEGIN_AGAIN}", False),
        ("stopped", "stopped by search.stopping after 640 images", True),
        ("stopped", "interrupted at 640 images; state saved", False),
    ],
)
def test_which_trials_resume_goes_on_with(status: str, reason: str | None, ended: bool) -> None:
    assert replace(TRIAL, status=status, reason=reason).ended is ended
    assert UNREADABLE_STATE == BEGIN_AGAIN
