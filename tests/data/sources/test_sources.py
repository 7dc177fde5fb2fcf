"""What holds for every source."""

from typing import get_args

import numpy as np
import pytest
from pictures import complaint, config, opened, read_all
from sklearn.datasets import load_digits

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources import open_source
from ambient_sweep.data.sources.annotations import class_labels, noise_levels

KINDS = get_args(DataConfig.model_fields["source"].annotation)


def test_digits_are_the_real_ones():
    found = open_source(DataConfig())
    assert not found.depth8
    real = load_digits()
    images, corrupt = read_all(found, 1000)
    assert not corrupt
    np.testing.assert_array_equal(images[..., 0], (real.images / 16).astype(np.float32))
    np.testing.assert_array_equal(found.labels, real.target)
    assert found.classes == tuple("0123456789")
    assert found.names[17] == "digit-0017"
    assert "has no noise levels" in complaint(open_source, DataConfig(sigma_column="sigma"))


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"digits", "store"}))
def test_a_missing_path_is_named_by_every_source(tmp_path, kind):
    assert "data.path: missing" in complaint(open_source, DataConfig(source=kind))
    message = complaint(opened, kind, tmp_path / "nowhere")
    assert "nowhere" in message
    assert "data.path" in message


def test_a_store_is_no_source(tmp_path):
    assert "data.source: store" in complaint(open_source, config("store", tmp_path))


def test_class_numbers_follow_the_order_of_names():
    numbers, classes = class_labels(np.array(["dog", "cat", "dog", "Ant"]), "x")
    assert numbers.tolist() == [2, 1, 2, 0]
    assert classes == ("Ant", "cat", "dog")
    numbers, classes = class_labels(np.array([3, 1], np.uint8), "x")
    assert numbers.dtype == np.int64
    assert classes == ("0", "1", "2", "3")


def test_levels_in_range_are_taken_in_float32_and_others_told_by_image():
    levels = noise_levels(np.array([0, 0.1, np.nan, 1e-6, 100]), "x", list("abcde"))
    assert levels.dtype == np.float32
    np.testing.assert_array_equal(levels, np.float32([0, 0.1, np.nan, 1e-6, 100]))
    for level in (1e39, 1e20, 100.1, 1e-25, -1e-25):
        told = complaint(noise_levels, np.array([0, 1, level]), "x", list("abc"))
        assert told == f"x: the noise level of c is {level}; it must be 0, or from 1e-06 to 100"
