import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_sweeps import make_evaluation, make_trial

from ambient_sweep.config import Config
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.storage import write_atomic
from ambient_sweep.trial.records import (
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
    others = [make_trial("b", Config()), make_evaluation("a", Config(), 31.0, 0.1, 0.25, "observed")]
    write_trial(tmp_path, others[0])
    write_trial(tmp_path, TRIAL)
    write_evaluation(tmp_path, EVALUATION)
    write_evaluation(tmp_path, others[1])
    assert read_trials(tmp_path) == [TRIAL, others[0]]
    assert read_evaluations(tmp_path) == [others[1], EVALUATION]
    path = tmp_path / "trials/a/evaluations/images-000049984-zero.json"
    assert path == evaluation_path(tmp_path, "a", 49984, "zero")
    tree = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert tree["measures"]["fd_pixels"]["value"] == "inf"


def test_a_record_of_before_stages_is_read(tmp_path: Path) -> None:
    write_trial(tmp_path, TRIAL)
    path = trial_path(tmp_path, "a")
    tree = json.loads(path.read_text())
    for name in ("stage", "forked_at", "replicate_of"):
        del tree[name]
    path.write_text(json.dumps(tree))
    assert read_trial(tmp_path, "a") == TRIAL


def test_one_trial_can_be_read_alone(tmp_path: Path) -> None:
    later = make_evaluation("a", Config(), 31.0, 0.1, 0.5)
    for record in (later, EVALUATION, make_evaluation("b", Config(), 30.0, 0.1)):
        write_evaluation(tmp_path, record)
    write_trial(tmp_path, TRIAL)
    assert read_trial(tmp_path, "a") == TRIAL
    assert read_trial_evaluations(tmp_path, "a") == [EVALUATION, later]
    assert read_evaluation(evaluation_path(tmp_path, "a", later.images, "zero"), "a") == later
    with pytest.raises(UserError, match=r"trials/b/trial\.json: cannot be read"):
        read_trial(tmp_path, "b")


def test_writing_again_replaces(tmp_path: Path) -> None:
    write_trial(tmp_path, TRIAL)
    write_trial(tmp_path, replace(TRIAL, status="completed", reason=None))
    assert [trial.status for trial in read_trials(tmp_path)] == ["completed"]
    assert [path.name for path in (tmp_path / "trials/a").iterdir()] == ["trial.json"]


def test_nothing_there_is_no_record(tmp_path: Path) -> None:
    assert read_trials(tmp_path) == []
    assert read_evaluations(tmp_path) == []


def test_temporary_files_are_ignored(tmp_path: Path) -> None:
    write_trial(tmp_path, TRIAL)
    write_evaluation(tmp_path, EVALUATION)
    evaluations = tmp_path / "trials/a/evaluations"
    (evaluations / ".images-000000064-zero.json.123.tmp").write_text('{"half')
    (tmp_path / "trials/b").mkdir()
    (tmp_path / "trials/b/.trial.json.123.tmp").write_text('{"half')
    assert len(read_trials(tmp_path)) == len(read_evaluations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda text: text[: len(text) // 2], "JSON"),
        (lambda text: "", "JSON"),
        (lambda text: text.replace('"images_done": 200000', '"images_done": "many"'), "images_done"),
        (lambda text: text.replace('"images_done": 200000,', ""), "images_done"),
        (lambda text: text.replace('"device":', '"gadget":'), "device"),
        (lambda text: text.replace('"status": "failed"', '"status": "lost"'), "status"),
        (lambda text: text.replace("12:00:00+00:00", "12:00:00"), "time zone"),
        (lambda text: text.replace('"trial_id": "a"', '"trial_id": "z"'), "trial z"),
    ],
)
def test_a_damaged_trial_is_named(tmp_path: Path, damage, complaint: str) -> None:
    write_trial(tmp_path, TRIAL)
    path = trial_path(tmp_path, "a")
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    with pytest.raises(UserError) as caught:
        read_trials(tmp_path)
    assert str(path) in str(caught.value)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_evaluation_is_named(tmp_path: Path) -> None:
    write_evaluation(tmp_path, EVALUATION)
    path = evaluation_path(tmp_path, "a", 49984, "zero")
    path.write_text(path.read_text().replace('"mem_excess": {', '"mem_else": {'))
    with pytest.raises(UserError, match="mem_excess") as caught:
        read_evaluations(tmp_path)
    assert str(path) in str(caught.value)


def test_records_refuse_what_cannot_be() -> None:
    for record, change, complaint in (
        (TRIAL, {"role": "guest"}, "role: 'guest' is none of search"),
        (TRIAL, {"status": "lost"}, "status: 'lost' is none of running"),
        (TRIAL, {"role": "replicate"}, "replicate_of: None does not go with role=replicate"),
        (TRIAL, {"replicate_of": "b"}, "replicate_of: 'b' does not go with role=search"),
        (TRIAL, {"forked_at": 640}, "stage: None does not go with forked_at=640"),
        (TRIAL, {"started": "yesterday"}, "yesterday"),
        (TRIAL, {"finished": "2026-01-31T12:00:00"}, "finished: .* has no time zone"),
        (EVALUATION, {"endpoint": "middle"}, "endpoint: 'middle' is none of zero"),
        (EVALUATION, {"fidelity": "fid"}, "fidelity: 'fid' is none of fd_pixels"),
        (EVALUATION, {"memorization": "mem_ratio"}, "memorization: 'mem_ratio' is none of"),
    ):
        with pytest.raises(ValueError, match=complaint):
            replace(record, **change)


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
