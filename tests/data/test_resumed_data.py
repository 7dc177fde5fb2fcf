"""Going on with a run: only on the data with which it began."""

import shutil

import numpy as np
import pytest
from made_up import MadeUp, pictures, store_of, use

from ambient_sweep.config import build_config
from ambient_sweep.errors import UserError
from ambient_sweep.trial.run import run_trial
from ambient_sweep.trial.setup import cached_data, prepare

SMALL = {
    "model": {"kind": "mlp", "width": 8, "blocks": 1},
    "training": {"images": 64, "batch_size": 16, "records": 2, "checkpoints": 2},
    "evaluation": {"lengths": [1.0], "samples": 8, "extras": [], "quantile": 0.2},
    "sampling.steps": 3,
}


@pytest.fixture
def source():
    sigma = np.full(60, 0.4, dtype=np.float32)
    return MadeUp(pictures(60, channels=1), np.arange(60) % 2, ("cats", "dogs"), sigma)


@pytest.fixture
def config(source, monkeypatch):
    return use(monkeypatch, source, train_size=40, heldout_size=15, sigma_column="level")


def begun(data, root, **changes):
    """A config, and a run folder that was prepared for it."""
    keys = {f"data.{key}": value for key, value in data.model_dump().items()}
    config = build_config(SMALL, keys, changes)
    cached_data.cache_clear()
    prepare(config, root)
    return config


def refusal(config, root):
    cached_data.cache_clear()
    with pytest.raises(UserError) as caught:
        run_trial(config, root, "train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def differs(root, where, words):
    told = f"{root}: began with other training data than {where} holds now ({words} changed)"
    return f"{told}; restore them, or use a new name"


def test_another_export_of_the_observations_is_refused(tmp_path, source, config):
    source.sigma = None
    plain = config.model_copy(update={"sigma_column": None})
    clean, out, root = store_of(tmp_path / "clean", plain), tmp_path / "observed", tmp_path / "run"
    observed = store_of(out, plain, observed_sigma=0.3)
    keys = {"observed.base_sigma": 0.3, "observed.sigma": 0.3, "evaluation.path": clean.path}
    run = begun(observed, root, **keys)
    shutil.move(out, tmp_path / "kept")
    store_of(out, plain, observed_sigma=0.3)  # another secret draw of the same images
    assert refusal(run, root) == differs(root, out, "observed")
    shutil.rmtree(out)
    shutil.move(tmp_path / "kept", out)
    cached_data.cache_clear()
    assert run_trial(run, root, "train").status == "completed"


def test_other_levels_and_labels_in_the_source_are_refused(tmp_path, source, config):
    run = begun(config, tmp_path / "run")
    source.sigma[:10], source.labels[:10], source.classes = 0.5, 1, ("cats", "dogs", "owls")
    assert refusal(run, tmp_path / "run") == differs(tmp_path / "run", "/photos", "levels, labels, classes")


def test_a_damaged_note_of_the_data_is_refused(tmp_path, config):
    run, note = begun(config, tmp_path / "run"), tmp_path / "run" / "data.json"
    for damage in ("[" * 100_000, "[]x", "[1]"):
        note.write_text(damage)
        assert f"{note}: cannot be read" in refusal(run, tmp_path / "run")
    note.unlink()
    assert "cannot be read" in refusal(run, tmp_path / "run")
