"""What a suggestion becomes, without Ray: reports, and the place where stages lie."""

from pathlib import Path
from typing import Any

import pytest
from runs import small_sweep

from ambient_sweep.errors import UserError
from ambient_sweep.results.records import read_trial
from ambient_sweep.sweep.run import run_sweep
from ambient_sweep.sweep.trainable import train_suggestion
from ambient_sweep.trial import prepare


def suggestion(trial_id: str, **values: Any) -> dict[str, Any]:
    return {"trial_id": trial_id, "role": "search", "label": "", "values": values}


def test_stages_may_lie_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    sweep = small_sweep(tmp_path, search__stages_at=elsewhere.as_uri())
    root = tmp_path / "sweep"
    prepare(sweep.some_config(), root)
    told: list[dict[str, Any]] = []
    for trial_id, weight in (("one", 1.0), ("two", 3.0)):
        values = {"observed.sigma": 0.3, "consistency.start": 0.5, "consistency.weight": weight}
        train_suggestion(suggestion(trial_id, **values), sweep=sweep, root=root, report=told.append)
    assert [report["images"] for report in told] == [1600, 3200, 3200] * 2
    assert [report["done_full_length"] for report in told] == [False, False, True] * 2
    assert told[0]["memory_gib"] > 0
    record = read_trial(root, "two")
    assert (record.forked_at, record.images_executed) == (1600, 1600)
    assert any(elsewhere.iterdir())
    assert not (root / "stages").exists()


@pytest.mark.parametrize("uri", ["nonsense://bucket/folder", "s3://"])
def test_a_place_that_cannot_be_opened_is_told_before_anything_starts(tmp_path: Path, uri: str) -> None:
    with pytest.raises(UserError, match=uri.partition(":")[0]) as caught:
        run_sweep(small_sweep(tmp_path, search__stages_at=uri), tmp_path / "runs", echo=lambda line: None)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "runs").iterdir()) == []
