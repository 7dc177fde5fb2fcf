"""Going on with a run: only on the data with which it began."""

import shutil

import numpy as np
import pytest
from made_up import MadeUp, pictures, store_of, use

from ambient_sweep.config import build_config
from ambient_sweep.errors import UserError
from ambient_sweep.trial.run import Interrupted, run_trial
from ambient_sweep.trial.setup import cached_data, prepare

SMALL = {
    "model": {"kind": "mlp", "width": 8, "blocks": 1},
    "training": {"images": 64, "batch_size": 16, "records": 2, "checkpoints": 2},
    "evaluation": {"lengths": [1.0], "samples": 8, "extras": [], "quantile": 0.2},
    "sampling.steps": 3,
}


@pytest.fixture
def source():
    count = 60
    labels = np.arange(count) % 2
    sigma = np.full(count, 0.4, dtype=np.float32)
    return MadeUp(pictures(count, channels=1), labels, ("cats", "dogs"), sigma)


@pytest.fixture
def config(source, monkeypatch):
    return use(monkeypatch, source, train_size=40, heldout_size=15, sigma_column="level")


def run_config(data, **changes):
    keys = {f"data.{key}": value for key, value in data.model_dump().items()}
    return build_config(SMALL, keys, changes)


def begin(config, root):
    """Trains the first half, and saves it."""
    cached_data.cache_clear()
    prepare(config, root)
    asked = iter([False, False])
    with pytest.raises(Interrupted):
        run_trial(config, root, "train", interrupted=lambda: next(asked, True))


def go_on(config, root):
    cached_data.cache_clear()
    prepare(config, root)
    return run_trial(config, root, "train")


def refusal(config, root):
    cached_data.cache_clear()
    with pytest.raises(UserError) as caught:
        prepare(config, root)
    with pytest.raises(UserError) as again:
        run_trial(config, root, "train")
    assert str(caught.value) == str(again.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_export_of_the_observations_is_refused(tmp_path, source, config):
    source.sigma = None
    plain = config.model_copy(update={"sigma_column": None})
    clean, out = store_of(tmp_path / "clean", plain), tmp_path / "observed"
    observed = store_of(out, plain, observed_sigma=0.3)
    changes = {"observed.base_sigma": 0.3, "observed.sigma": 0.3, "evaluation.path": clean.path}
    run, root = run_config(observed, **changes), tmp_path / "run"
    begin(run, root)
    shutil.move(out, tmp_path / "kept")
    store_of(out, plain, observed_sigma=0.3)  # another secret draw of the same images
    assert refusal(run, root) == (
        f"{root}: began with other training data than {out} holds now (observed changed); restore them, or use a new name"
    )
    shutil.rmtree(out)
    shutil.move(tmp_path / "kept", out)
    assert go_on(run, root).status == "completed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda source: source.sigma.__setitem__(slice(0, 10), 0.5), "levels"),
        (lambda source: source.labels.__setitem__(slice(0, 10), 1), "labels"),
        (lambda source: setattr(source, "classes", ("cats", "dogs", "owls")), "classes"),
    ],
)  # fmt: skip
def test_other_levels_and_labels_in_the_source_are_refused(tmp_path, source, config, change, words):
    run, root = run_config(config), tmp_path / "run"
    begin(run, root)
    change(source)
    assert refusal(run, root) == (
        f"{root}: began with other training data than /photos holds now ({words} changed); restore them, or use a new name"
    )


def test_a_damaged_note_is_told(tmp_path, config):
    run, root = run_config(config), tmp_path / "run"
    begin(run, root)
    for damage in ("[" * 100_000, "[]x", "[1]"):
        (root / "data.json").write_text(damage)
        assert f"{root / 'data.json'}: cannot be read" in refusal(run, root)
    (root / "data.json").unlink()
    assert "cannot be read" in refusal(run, root)
