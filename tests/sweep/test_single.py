"""One config trained for good, on a disk that fills up."""

import contextlib
import errno
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError

from ambient_sweep.config import build_config
from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.sweep import single
from ambient_sweep.sweep.running import cluster, preflight, workers
from ambient_sweep.sweep.single import train_single
from ambient_sweep.trial.records import read_trial
from ambient_sweep.trial.tensorboard import TrialBoard

CONFIG = build_config(
    {
        "data.train_size": 150,
        "model": {"kind": "mlp", "width": 8, "blocks": 1},
        "training": {"images": 64, "batch_size": 32, "records": 2, "checkpoints": 2},
        "evaluation": {"samples": 8, "lengths": [1.0], "extras": []},
        "sampling.steps": 2,
    }
)


def full(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_at_the_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError) as caught:
            train_single(CONFIG, root)
    assert str(caught.value) == f"{root}: cannot be written (No space left on device); give another --storage"
    assert list(tmp_path.iterdir()) == []
    assert train_single(CONFIG, root, echo=lambda line: None)[0].status == "completed"


@pytest.mark.parametrize("method", ["__init__", "scalars"])
def test_a_full_disk_in_training_is_told_by_a_path_and_not_by_what_it_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    root = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TrialBoard, method, full)

        def failing_tables(folder: Path) -> NoReturn:
            raise OSError(errno.ENOSPC, "of the tables", str(folder / "trials.parquet"))

        patch.setattr(single, "export_tables", failing_tables)
        with pytest.raises(OSError, match="No space left on device") as caught:
            train_single(CONFIG, root, echo=lambda line: None)
    assert caught.value.filename == str(root / "trials" / "train")
    if method == "scalars":
        assert read_trial(root, "train").reason == f"interrupted: {root}/trials/train: No space left on device"
    assert train_single(CONFIG, root, echo=lambda line: None)[0].status == "completed"


def test_a_worker_that_dies_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def died(*_: Any) -> NoReturn:
        raise WorkerGroupError("a page", {0: ActorDiedError()})

    monkeypatch.setattr(cluster, "ray_session", lambda **_: contextlib.nullcontext())
    monkeypatch.setattr(cluster, "wait_for_room", lambda *_: None)
    monkeypatch.setattr(preflight, "ray_nodes", list)
    monkeypatch.setattr(preflight, "concurrent_trials", lambda *_: 1)
    monkeypatch.setattr(workers, "fit_watched", died)
    two = CONFIG.model_copy(update={"resources": CONFIG.resources.model_copy(update={"workers": 2})})
    with pytest.raises(AmbientSweepError) as caught:
        train_single(two, tmp_path / "run", echo=lambda line: None)
    said = "the worker process died (killed, or out of memory); the same command goes on from the last state"
    assert str(caught.value) == said
