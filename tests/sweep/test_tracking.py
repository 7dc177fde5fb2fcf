"""Trackers: what they are given without a server, and a package that is missing."""

import importlib.machinery
import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest
from small_sweeps import small_sweep

from ambient_sweep.errors import UserError
from ambient_sweep.sweep.tracking import check_tracker, trackers


def test_no_tracker_by_default_and_a_missing_one_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trackers(small_sweep(tmp_path), tmp_path) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("mlflow", "wandb"):
        with pytest.raises(
            UserError, match=rf"small.yaml: search.tracker: {name} is not installed; `pip install {name}`, or"
        ):
            check_tracker(small_sweep(tmp_path, search__tracker=name))
    with pytest.raises(UserError, match=r"search\.tracker"):
        small_sweep(tmp_path, search__tracker="comet")


def test_without_settings_they_write_into_the_sweeps_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlflow", "wandb"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("ray.air.integrations.wandb.wandb", module)
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    (callback,) = trackers(small_sweep(tmp_path, search__tracker="mlflow"), tmp_path)
    assert (callback.tracking_uri, callback.experiment_name) == (f"sqlite:///{tmp_path}/mlflow.db", "small")
    (callback,) = trackers(small_sweep(tmp_path, search__tracker="wandb"), tmp_path)
    assert (callback.project, callback.kwargs) == ("small", {"mode": "offline", "dir": str(tmp_path)})
    assert os.environ["WANDB_MODE"] == "offline", "Ray asks for a key without it"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    (callback,) = trackers(small_sweep(tmp_path, search__tracker="mlflow"), tmp_path)
    assert callback.tracking_uri == "http://127.0.0.1:5000"
