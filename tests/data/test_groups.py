"""Splits that keep groups whole, and the publisher's split."""

import numpy as np
import pytest
from made_up import MadeUp, pictures, store_of, use

from ambient_sweep.data.dataset import load_data
from ambient_sweep.data.sources.source import Source
from ambient_sweep.data.split import split_groups, split_index
from ambient_sweep.errors import UserError


def shared_out(groups, train_size, heldout_size, seed=0):
    order = np.random.default_rng(seed).permutation(len(groups))
    train, heldout = split_groups(order, np.asarray(groups), train_size, heldout_size, "data.group_column=x")
    assert len(set(train) | set(heldout)) == len(train) + len(heldout)
    of = [set(np.asarray(groups)[rows]) for rows in (train, heldout)]
    assert not of[0] & of[1]
    for rows, group in zip((train, heldout), of, strict=True):
        assert len(rows) == np.isin(groups, list(group)).sum()  # whole
    return train.tolist(), heldout.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_whole_and_sizes_are_off_by_half_a_group_at_most(seed):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 40, generator.integers(3, 12))
    groups = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    wanted = len(groups) // 4
    train, heldout = shared_out(groups, None, wanted, seed)
    assert abs(len(heldout) - wanted) <= sizes.max() / 2
    assert len(train) + len(heldout) == len(groups)
    part, again = shared_out(groups, wanted, wanted, seed)
    assert again == heldout
    assert set(part) <= set(train)
    assert abs(len(part) - wanted) <= sizes.max() / 2


def test_of_many_groups_the_first_ones_stay():
    sizes = np.random.default_rng(0).integers(1, 30, 5000)
    groups = np.repeat(np.arange(5000), sizes)
    small, large = (shared_out(groups, size, 5000) for size in (20_000, 40_000))
    assert np.abs([len(small[0]) - 20_000, len(small[1]) - 5000, len(large[0]) - 40_000]).max() <= 15
    assert small[1] == large[1]
    assert small[0][:19_000] == large[0][:19_000]
    assert shared_out(groups, 20_000, 5000, seed=1)[1] != small[1]


def test_of_groups_of_one_size_a_smaller_part_is_a_prefix():
    groups = np.arange(600) % 60
    small, large = (shared_out(groups, size, 100)[0] for size in (96, 200))
    assert (len(small), len(large)) == (100, 200)
    assert small == large[:100]
    assert shared_out(np.r_[np.zeros(900), np.arange(1, 101)], None, 100)[1] != []
    assert len(shared_out(np.r_[np.zeros(900, int), np.arange(1, 101)], None, 100)[1]) == 100  # without the large one


def test_groups_that_cannot_be_shared_out_are_refused():
    with pytest.raises(
        UserError, match=r"data\.group_column=x: 1 groups, the largest of 9 images, cannot be shared out"
    ):
        shared_out([3] * 9, None, 2)


# -- through a source -----------------------------------------------------------------------------------------------


@pytest.fixture
def grouped(monkeypatch):
    """Sixty groups of ten images, whose numbers are in the names."""
    source = MadeUp(pictures(600))
    config = use(monkeypatch, source, train_size=300, heldout_size=58, group_column="patient")
    plain = source.source
    source.source = lambda: Source(**{**vars(plain()), "groups": np.arange(600) // 10})
    return config


def test_the_split_keeps_groups_whole_and_says_what_came_out(grouped, tmp_path):
    data = load_data(grouped)
    parts = [set((index // 10).tolist()) for index in (data.train_index, data.heldout_index)]
    assert [len(data.train), len(data.heldout), len(parts[0]), len(parts[1])] == [300, 60, 30, 6]
    assert not parts[0] & parts[1]
    assert data.notes == (
        "groups by data.group_column=patient are kept whole: 300 images of 30 groups train, 60 images of 6 groups "
        "(58 asked for) are held out",
    )
    stored = load_data(store_of(tmp_path / "store", grouped).model_copy(update={"group_column": None}))
    assert stored.fingerprint == data.fingerprint
    with pytest.raises(UserError, match=r"set data\.group_column=null, or prepare it anew"):
        load_data(store_of(tmp_path / "other", grouped))
    default = load_data(grouped.model_copy(update={"train_size": None, "heldout_size": None}))
    assert len(default.train) + len(default.heldout) == 600
    small, cut = grouped.model_copy(update={"train_size": None, "heldout_size": 5}), [(0, "cut off")]
    source = Source(["x"] * 20, list, 8, 3, True, groups=np.arange(20) // 5)
    assert sorted(np.concatenate(split_index(small, source, cut)).tolist()) == list(range(1, 20))


def test_the_publishers_split_is_used_as_it_is(monkeypatch):
    source = MadeUp(pictures(40))
    config = use(monkeypatch, source, split={"train": "train", "heldout": "test"})
    plain, published = source.source, np.arange(40) % 4 > 0
    source.source = lambda: Source(**{**vars(plain()), "published": published})
    data = load_data(config)
    assert sorted(data.train_index.tolist()) == np.flatnonzero(published).tolist()
    assert sorted(data.heldout_index.tolist()) == np.flatnonzero(~published).tolist()
    assert data.train_index.tolist() != sorted(data.train_index.tolist())  # so that a prefix is a fair sample
    part = load_data(config.model_copy(update={"train_size": 20, "heldout_size": 5}))
    assert part.train_index.tolist() == data.train_index[:20].tolist()
    assert part.heldout_index.tolist() == data.heldout_index[5:].tolist()
    for changes, message in (
        (
            {"train_size": 31},
            r"data\.train_size: 31 is more than the 30 in data\.split; lower it",
        ),
        ({"heldout_size": 11}, r"data\.heldout_size: 11 is more than the 10 in"),
    ):
        with pytest.raises(UserError, match=message):
            load_data(config.model_copy(update=changes))
    published = np.arange(40) > 0
    with pytest.raises(UserError, match="has 39 training and 1 held-out images that can be read; name more"):
        load_data(config)
