"""Stores of noisy observations: what they hold, what training and evaluation make of them."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from made_up import MadeUp, pictures, store_of, use
from scipy import stats

from ambient_sweep.config import DataConfig, ObservedConfig, build_config, parse_overrides
from ambient_sweep.data.dataset import load_clean, load_data
from ambient_sweep.data.observed import observe
from ambient_sweep.data.prepare import prepare, summary
from ambient_sweep.data.store import open_store
from ambient_sweep.errors import UserError


@pytest.fixture
def source():
    return MadeUp(pictures(60), labels=np.arange(60) % 2, classes=("cats", "dogs"))


@pytest.fixture
def config(source, monkeypatch):
    return use(monkeypatch, source, block=7, train_size=40, heldout_size=15)


def whole_config(data: DataConfig, **values):
    keys = {f"data.{key}": value for key, value in data.model_dump().items()}
    return build_config({"model.kind": "mlp"}, keys, values)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_every_level_adds_to_the_stored_observation_what_it_adds_to_clean_images(tmp_path, source, config, dtype):
    source.images = pictures(60, dtype=dtype)
    source.sigma = np.where(np.arange(60) % 5 == 0, 0.7, np.nan).astype(np.float32)
    clean = store_of(tmp_path / "clean", config)
    for name, origin in (("noisy", config), ("exported", clean)):
        noisy = store_of(tmp_path / name, origin, observed_sigma=0.2)
        for size in (40, 10):
            rows = np.random.default_rng(0).permutation(size)
            data, base = (load_data(store.model_copy(update={"train_size": size})) for store in (noisy, clean))
            lowest, higher = (ObservedConfig(sigma=sigma, base_sigma=0.2, seed=3) for sigma in (0.2, 1.5))
            _, sigma, _, labels = observe(data, higher).read(rows)
            added = [observe(each, higher).read(rows)[0] - observe(each, lowest).read(rows)[0] for each in (data, base)]
            own = (sigma == 0.7).nonzero()[:, 0]
            assert 0 < len(own) < size
            torch.testing.assert_close(*added, atol=1e-5, rtol=0)
            assert torch.equal(labels, base.train_labels[rows])
            plain = dataclasses.replace(data, train_sigma=None)
            assert torch.equal(observe(plain, lowest).read(rows)[0], data.train[rows])


def test_a_store_of_observations_holds_nothing_else(tmp_path, source, config):
    source.corrupt = {1: "cut off"}
    skip, folder = config.model_copy(update={"on_corrupt": "skip"}), tmp_path / "noisy"
    stored = store_of(folder, skip, observed_sigma=0.2)
    assert {file.name for file in folder.iterdir()} == {
        "store.json", "images.bin", "index.npy", "train_index.npy", "heldout_index.npy", "labels.npy", "duplicates.json"
    }  # fmt: skip
    store, data = open_store(folder), load_data(stored)
    assert sorted(store.train_index) == store.index.tolist()
    assert (store.images.shape, len(data.heldout)) == ((40, 3, 8, 8), 0)
    everything = b"".join(file.read_bytes() for file in folder.iterdir())
    assert b"photo" not in everything
    for row in set(range(60)) - set(store.index.tolist()):
        assert source.images[row].transpose(2, 0, 1).tobytes() not in everything
    # every pixel of a training image differs from the clean one, by noise of the level said
    clean = source.images[store.index].transpose(0, 3, 1, 2) / 127.5 - 1
    noise = (store.images - clean).ravel()
    assert (np.abs(noise) > 1e-7).all()
    assert stats.kstest(noise / 0.2, "norm").pvalue > 1e-3


def test_the_noise_is_drawn_in_secret(tmp_path, config):
    """A keyed draw can be drawn again and subtracted; a secret one differs every time and is not clipped or rounded."""
    one, two = (load_data(store_of(tmp_path / name, config, observed_sigma=0.5)) for name in ("once", "twice"))
    clean = load_data(config)
    assert one.fingerprint == two.fingerprint == clean.fingerprint
    assert one.observed.fingerprint != two.observed.fingerprint
    noises = [(data.train[:] - clean.train[:]).flatten() / 0.5 for data in (one, two)]
    assert abs(np.corrcoef(noises[0], noises[1])[0, 1]) < 0.05
    for noise in noises:
        assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-9  # no seed: fails once in a billion runs
    y = observe(one, ObservedConfig(sigma=1.3, base_sigma=0.5, seed=1)).read(np.arange(40))[0]  # any seed adds to it
    assert (y - one.train[:]).std() == pytest.approx(1.2, rel=0.02)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "noisy was made with another; set observed.base_sigma=0.2"),
        ({"base_sigma": 0.3}, "set observed.base_sigma=0.2"),
        ({"base_sigma": 0.2, "clean_fraction": 0.1}, "observed.clean_fraction: "),
        ({"base_sigma": 0.2, "keep_clean": True}, "objective.kind: ambient_high_clean_low reads clean"),
    ],
)
def test_settings_that_do_not_go_with_observations_are_refused(tmp_path, config, values, message):
    data = load_data(store_of(tmp_path / "noisy", config, observed_sigma=0.2))
    keep_clean = values.pop("keep_clean", False)
    with pytest.raises(UserError, match=re.escape(message)):
        observe(data, ObservedConfig(sigma=0.5, **values), keep_clean)


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path, source, config):
    loaders = source.loaders

    def changing():
        for row, loader in enumerate(loaders()):
            source.images[5] += row == 50
            yield loader

    source.loaders = changing
    with pytest.raises(UserError, match="/photos: its images changed while they were read"):
        store_of(tmp_path / "noisy", config, observed_sigma=0.2)
    assert list(tmp_path.iterdir()) == []


# -- what evaluation compares with ----------------------------------------------------------------------------------


def test_evaluation_reads_the_clean_store_of_the_same_images(tmp_path, config):
    clean = store_of(tmp_path / "clean", config)
    noisy = store_of(tmp_path / "noisy", clean, observed_sigma=0.2)
    keys = {"observed.base_sigma": 0.2, "evaluation.path": clean.path}
    found = load_clean(whole_config(noisy, **keys))
    assert found.fingerprint == load_data(clean).fingerprint == load_clean(whole_config(clean)).fingerprint
    assert torch.equal(found.heldout[:], load_data(clean).heldout[:])
    fewer = noisy.model_copy(update={"train_size": 10, "heldout_size": 5})
    assert len(load_clean(whole_config(fewer, **keys)).heldout) == 5


def test_evaluation_refuses_what_is_not_the_clean_images(tmp_path, source, config):
    clean = store_of(tmp_path / "clean", config)
    noisy = store_of(tmp_path / "noisy", clean.model_copy(update={"train_size": 25}), observed_sigma=0.2)
    source.images[0] += 1
    other = store_of(tmp_path / "other", config)
    differs = f"holds other images than those behind data.path {noisy.path}, or splits them differently; set "
    for path, message in (
        (
            None,
            f"data.path: {noisy.path} holds only noisy observations; set evaluation.path=... to a store of the clean",
        ),
        (noisy.path, f"evaluation.path: {noisy.path} holds noisy observations; give the clean store"),
        (other.path, f"evaluation.path: {other.path} {differs}"),
        (clean.path, f"evaluation.path: {clean.path} {differs}data.train_size=25 data.heldout_size=15"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            load_clean(whole_config(noisy, **{"observed.base_sigma": 0.2, "evaluation.path": path}))
    with pytest.raises(UserError, match="noisy: holds only noisy observations; give the store of the clean images"):
        store_of(tmp_path / "store", noisy)


@pytest.mark.parametrize("dropping", [{}, {"drop_duplicates": True, "near": 0.2}])
def test_the_keys_that_are_printed_train_on_smaller_observations(tmp_path, source, config, dropping):
    train = load_data(config).train_index.tolist()
    source.images[train[9]] = source.images[train[2]]
    clean = store_of(tmp_path / "clean", config)
    part = clean.model_copy(update={"train_size": 25, "heldout_size": 10})
    info = prepare(tmp_path / "noisy", part, lambda line: None, observed_sigma=0.2, **dropping)
    lines = summary(tmp_path / "noisy", info)
    assert lines[-1] == (
        f"train with data.source=store data.path={tmp_path / 'noisy'} data.image_size=8 data.channels=3 "
        f"data.split_seed=0 data.train_size={24 if dropping else 25} data.heldout_size=10 observed.base_sigma=0.2 "
        "evaluation.path=..."
    )
    printed = parse_overrides(lines[-1].removeprefix("train with ").removesuffix(" evaluation.path=...").split())
    keys = {"model.kind": "mlp", **printed, "evaluation.path": clean.path}
    if dropping:
        assert lines[-2].endswith("prepared with the same data.* keys and --drop-duplicates --near 0.2")
        with pytest.raises(UserError, match="the same --drop-duplicates --near"):
            load_clean(build_config(keys))
        keys["evaluation.path"] = store_of(tmp_path / "alike", part, **dropping).path
    assert load_clean(build_config(keys)).heldout_index.tolist() == load_data(part).heldout_index.tolist()
