"""Small trials on digits, and how two of them are compared, for the tests of trials and stages."""

import json
import shutil
import uuid
from pathlib import Path

import pytest

from ambient_sweep import object_store
from ambient_sweep.config import build_config
from ambient_sweep.object_client import is_url
from ambient_sweep.object_store import OPENED, fetch_folder, open_url, put
from ambient_sweep.training.state import saved_states
from ambient_sweep.trial.records import read_trial_evaluations
from ambient_sweep.trial.run import run_trial
from ambient_sweep.trial.setup import prepare

SMALL = {
    "data.train_size": 150,
    "model": {"kind": "mlp", "width": 16, "blocks": 1},
    "training": {"images": 1600, "batch_size": 32, "records": 10, "checkpoints": 2},
    "evaluation": {"samples": 16, "lengths": [0.2, 0.4, 0.7, 1.0], "batch_size": 16, "extras": ["kid"]},
    "sampling.steps": 3,
    "consistency.start": 0.6,
    "consistency.batch_share": 0.5,
}
POWER = {"ema.kind": "power", "ema.tracked": [0.05, 0.1], "ema.snapshots": 5}


def small(*changes):
    return build_config(SMALL, *changes)


def values(root, name):
    """All that evaluations say but how long they took."""
    found = {}
    for e in read_trial_evaluations(root, name):
        found[e.images, e.endpoint] = (e.measures, e.main_endpoint, e.fraction, e.samples, e.seed, e.fidelity)
    return found


def files(folder, pattern):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.glob(pattern)) if p.is_file()}


def assert_same(root, name, other, *, other_name="t"):
    """All that training and evaluation leave is the same, bytes of tensors and values of measures."""
    for place, n in ((root, name), (other, other_name)):
        fetch_folder(place / "trials" / n)
    mine, theirs = (place / "trials" / n for place, n in ((root, name), (other, other_name)))
    last = saved_states(mine / "state")[0].name
    assert last == saved_states(theirs / "state")[0].name
    for pattern in (f"state/{last}/*.safetensors", "checkpoints/*/*.safetensors", "snapshots/*/*.safetensors",
                    "evaluations/*.png"):  # fmt: skip
        assert files(mine, pattern) == files(theirs, pattern), pattern
    notes = [json.loads((place / "state" / last / "state.json").read_text()) for place in (mine, theirs)]
    assert notes[0] == notes[1]  # the losses of the last records among them
    assert values(root, name) == values(other, other_name)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    prepare(small(), root)
    return root


@pytest.fixture(scope="session")
def alone(prepared, tmp_path_factory):
    """Trains a config without stages as trial `t` of a sweep of its own, once, and gives the sweep's folder, to be read."""
    done = {}

    def train(config):
        if config not in done:
            done[config] = shutil.copytree(prepared, tmp_path_factory.mktemp("alone") / "sweep")
            run_trial(config, done[config], "t")
        return done[config]

    return train


@pytest.fixture
def root(prepared, tmp_path):
    """The folder of a sweep before its first trial."""
    return shutil.copytree(prepared, tmp_path / "sweep")


@pytest.fixture(params=["folder", "s3"])
def place(request, prepared, tmp_path):
    """Where a sweep lies before its first trial, as other processes are given it: a folder, or a URL."""
    if request.param == "folder":
        return str(shutil.copytree(prepared, tmp_path / "sweep"))
    url = request.getfixturevalue("s3").url(f"{uuid.uuid4().hex}/sweep")
    shutil.copytree(prepared, open_url(url), dirs_exist_ok=True)
    put(open_url(url))
    return url


def opened(place):
    """The folder of a place, in a process that has not seen it; `place` may be a URL."""
    if not is_url(place):
        return Path(place)
    object_store._COPIES.pop(place, None)
    return open_url(place, *OPENED)
