import numpy as np
import pytest
import torch
from made_up import MadeUp, pictures, use
from sklearn.datasets import load_digits

from ambient_sweep.config import DataConfig
from ambient_sweep.data import dataset as dataset_module
from ambient_sweep.data.dataset import load_data
from ambient_sweep.errors import UserError


def test_digits_are_the_real_ones_split_without_overlap():
    data = load_data(DataConfig(train_size=150))
    assert (len(data.train), len(data.heldout), data.shape, data.classes) == (150, 1647, (1, 8, 8), 10)
    index = torch.cat([data.train_index, data.heldout_index])
    assert sorted(index.tolist()) == list(range(1797))
    real = load_digits()
    for images, labels, where in (
        (data.train, data.train_labels, data.train_index),
        (data.heldout, data.heldout_labels, data.heldout_index),
    ):
        np.testing.assert_allclose(images[:][:, 0].numpy(), real.images[where] / 8 - 1, atol=1e-6)
        np.testing.assert_array_equal(labels, real.target[where])


def test_the_split_is_seeded_and_written_down():
    first, other = (load_data(DataConfig(train_size=150, split_seed=seed)) for seed in (0, 1))
    assert first.fingerprint != other.fingerprint
    assert not torch.equal(first.train_index, other.train_index)
    names = [f"digit-{index:04d}" for index in first.train_index]
    assert [row["name"] for row in first.split()["train"]] == names == [*map(first.name, first.train_index.tolist())]


def test_heldout_images_do_not_depend_on_the_number_of_training_images():
    small, large = (load_data(DataConfig(train_size=size, heldout_size=200)) for size in (100, 1000))
    assert torch.equal(small.heldout_index, large.heldout_index)
    assert torch.equal(small.train_index, large.train_index[:100])
    assert torch.equal(small.heldout[:], large.heldout[:])
    fewer = load_data(DataConfig(train_size=100, heldout_size=50))
    assert torch.equal(fewer.heldout_index, large.heldout_index[-50:])
    assert len(load_data(DataConfig(heldout_size=97)).train) == 1700  # what is left out is all the rest
    data = load_data(DataConfig())
    assert (len(data.train), len(data.heldout)) == (1617, 180)


def test_the_fingerprint_is_of_pixels_and_split_and_of_nothing_else(monkeypatch):
    source = MadeUp(pictures(40))
    config = use(monkeypatch, source, train_size=20)
    first = load_data(config).fingerprint
    assert load_data(use(monkeypatch, source, block=3, train_size=20)).fingerprint == first
    others = [load_data(config.model_copy(update=change)).fingerprint for change in (
        {"train_size": 21}, {"split_seed": 1}, {"heldout_size": 10}
    )]  # fmt: skip
    source.images[39, 7, 7, 2] ^= 1
    others.append(load_data(config).fingerprint)
    assert len({first, *others}) == 5


def test_images_that_cannot_be_read_are_named_or_skipped(monkeypatch):
    """Skipped, the split is that of the whole source with them left out, and their pixels count for nothing."""
    source = MadeUp(pictures(40))
    whole = load_data(config := use(monkeypatch, source, train_size=20))
    source.corrupt = {3: "cut off", 17: "not an image", 18: "the file is empty", 30: "cut off"}
    with pytest.raises(UserError) as caught:
        load_data(config)
    assert str(caught.value) == (
        "/photos: 4 of 40 images cannot be read (photo 003.png: cut off; photo 017.png: not an image; photo 018.png: "
        "the file is empty; and 1 more); remove or replace them, or set data.on_corrupt=skip"
    )
    data = load_data(config.model_copy(update={"on_corrupt": "skip"}))
    order, kept = (torch.cat([each.train_index, each.heldout_index]) for each in (whole, data))
    assert torch.equal(kept, order[~torch.isin(order, torch.tensor([*source.corrupt]))])
    assert data.fingerprint != whole.fingerprint


def test_too_few_images_are_refused(monkeypatch):
    source = MadeUp(pictures(10), corrupt={1: "cut off"})
    for changes, message in (
        ({"train_size": 9}, r"/photos: 9 images are fewer than data\.train_size=9 and data\.heldout_size=2"),
        ({"train_size": 5, "heldout_size": 5}, r"9 images are fewer than data\.train_size=5 and data\.heldout_size=5"),
        ({"heldout_size": 9}, r"9 images are fewer than data\.train_size=1 and data\.heldout_size=9"),
    ):
        config = use(monkeypatch, source, on_corrupt="skip", **changes)
        with pytest.raises(UserError, match=message):
            load_data(config)
    with pytest.raises(UserError, match="1 images are fewer than"):
        load_data(use(monkeypatch, MadeUp(pictures(1))))


def test_a_source_too_large_for_memory_is_sent_to_prepare(monkeypatch):
    monkeypatch.setattr(dataset_module, "MOST_IN_MEMORY", 40 * 8 * 8 * 3 - 1)
    source = MadeUp(pictures(40))
    with pytest.raises(UserError, match=r"/photos holds 40 images, 0\.0 GiB at this size; run `ambient-sweep prepare`"):
        load_data(use(monkeypatch, source))
    assert source.readings == 0
    load_data(use(monkeypatch, MadeUp(pictures(39))))
