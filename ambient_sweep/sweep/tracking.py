"""Trackers that people already use, MLflow and Weights & Biases, through Ray's callbacks: `search.tracker`."""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ambient_sweep.errors import UserError
from ambient_sweep.sweep.space.definition import Sweep

if TYPE_CHECKING:
    from ray.tune import Callback


def check_tracker(sweep: Sweep) -> None:
    """Raises UserError where the package that `search.tracker` names is not installed."""
    name = sweep.search.tracker
    if name is not None and importlib.util.find_spec(name) is None:
        raise UserError(
            f"{sweep.where}: search.tracker: {name} is not installed; `pip install {name}`, or leave it out"
        )


def trackers(sweep: Sweep, root: Path) -> "list[Callback]":
    """The callback that `search.tracker` asks for, if any.

    It writes into the sweep's folder, without a network, unless MLFLOW_TRACKING_URI, WANDB_API_KEY or WANDB_MODE is set.
    """
    if sweep.search.tracker == "mlflow":
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        place = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        return [MLflowLoggerCallback(place, experiment_name=sweep.name)]
    if sweep.search.tracker == "wandb":
        from ray.air.integrations.wandb import WandbLoggerCallback

        mode = os.environ.setdefault("WANDB_MODE", "online" if "WANDB_API_KEY" in os.environ else "offline")
        return [WandbLoggerCallback(project=sweep.name, excludes=["trial", "report"], mode=mode, dir=str(root))]
    return []
