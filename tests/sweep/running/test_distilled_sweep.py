"""A sweep that chooses what carries a model below the noise level, on a real Ray."""

from pathlib import Path

import pandas as pd
import pytest
from small_sweeps import SMALL

from ambient_sweep.config import load_config
from ambient_sweep.sweep.run import run_sweep
from ambient_sweep.sweep.space.file import load_sweep

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("ray_head")]

SWEEP = (
    SMALL.partition("space:")[0]
    + """
space:
  objective.kind: {choice: [ambient, ambient_consistency, ambient_distilled]}
  distillation.start: {choice: [0.26, 0.6], when: {objective.kind: ambient_distilled}}
search: {trials: 4, sampler: grid, stopping: {rule: none}, max_concurrent: 1}
confirm: {samples: 2x}
"""
)


def test_objectives_compete_and_share_the_teacher(tmp_path: Path) -> None:
    (tmp_path / "kinds.yaml").write_text(SWEEP)
    run_sweep(load_sweep(tmp_path / "kinds.yaml"), tmp_path / "runs")
    root = tmp_path / "runs" / "kinds"
    trials, rows = (pd.read_parquet(root / f"{name}.parquet") for name in ("trials", "evaluations"))
    assert set(trials["status"]) == {"completed"}
    found = rows[(rows["distillation.start"] == 0.26) & (rows["objective.kind"] == "ambient_distilled")]
    assert set(zip(found["images"], found["endpoint"], found["main_endpoint"], strict=True)) == {
        (832, "zero", False), (832, "observed", True), (1600, "distilled", True), (3200, "distilled", True),
    }  # fmt: skip
    searched = trials[trials["role"] == "search"]
    assert len(searched) == 4
    assert searched["images_executed"].sum() == 4 * 3200 - 2 * 1600  # the half that two of them had from the first
    assert (root / "report.html").stat().st_size > 0
    load_config(root / "best.yaml")
