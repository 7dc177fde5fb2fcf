"""The split of a source into training and held-out images: keyed, by whole groups, or the publisher's."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ambient_sweep import rng
from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources import Source
from ambient_sweep.errors import UserError

MIN_HELDOUT = 2
ENOUGH_HELDOUT, SPARE_HELDOUT = 99, 11  # what mem_excess needs by default, and more, since copies do not count
Rows = NDArray[np.int64]


def split_index(config: DataConfig, source: Source, corrupt: Sequence[tuple[int, str]] = ()) -> tuple[Rows, Rows]:
    """The training and the held-out images, by their place in the source.

    Of a keyed permutation of the source without its corrupt images, the first train and the last are held out: a
    smaller train_size is a prefix of a larger one, and the held-out images depend on heldout_size alone. By default a
    tenth is held out, or as many as evaluation needs, up to half. A publisher's split is taken as it is, up to the sizes;
    groups are kept whole. Raises UserError where images are too few.
    """
    order = rng.permutation("data.split", config.split_seed, 0, len(source))
    order = order[~np.isin(order, [row for row, _ in corrupt])]
    if source.published is not None:
        train, heldout = order[source.published[order]], order[~source.published[order]]
        if len(train) == 0 or len(heldout) < MIN_HELDOUT:
            found = f"{len(train)} training and {len(heldout)} held-out images"
            raise UserError(f"data.split: has {found} that can be read; name more")
        return shortened(config, train, heldout, "data.split; lower it")
    good = len(order)
    train_size = config.train_size or good - (config.heldout_size or default_heldout(good))
    heldout_size = good - train_size if config.heldout_size is None else config.heldout_size
    if train_size < 1 or train_size + max(heldout_size, MIN_HELDOUT) > good:
        held = MIN_HELDOUT if config.heldout_size is None else heldout_size
        wanted = f"data.train_size={max(train_size, 1)} and data.heldout_size={held}"
        raise UserError(f"{config.path or config.source}: {good} images are fewer than {wanted}; lower one of them")
    if source.groups is not None:
        exact = None if config.train_size is None or config.heldout_size is None else train_size
        return split_groups(order, source.groups, exact, heldout_size, _grouping(config))
    return order[:train_size].copy(), order[good - heldout_size :].copy()


def split_groups(order: Rows, groups: Rows, train_size: int | None, heldout_size: int, by: str) -> tuple[Rows, Rows]:
    """The training and the held-out images among `order`, in whole groups, near to the sizes.

    Groups come in the order of their first images. The first train and the last are held out; near the sizes, some are
    passed over for others that fit better. groups: [N], by place in the source. train_size: None for all that is not held
    out. Raises UserError, which begins with `by`, for too few groups.
    """
    _, first, inverse = np.unique(groups[order], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[inverse]  # per image, the place of its group
    sizes = np.bincount(rank)
    heldout = len(sizes) - 1 - _up_to(sizes[::-1], heldout_size, MIN_HELDOUT, len(order) - 1)
    train = np.setdiff1d(np.arange(len(sizes)), heldout)
    if train_size is not None:
        train = train[_up_to(sizes[train], train_size, 1, len(order))]
    if sizes[heldout].sum() < MIN_HELDOUT:
        held = f"{len(sizes)} groups, the largest of {sizes.max()} images"
        raise UserError(f"{by}: {held}, cannot be shared out between training and held-out images; name smaller groups")
    order, rank = order[np.argsort(rank, kind="stable")], np.sort(rank)
    return order[np.isin(rank, train)], order[np.isin(rank, heldout)]


def _up_to(sizes: Rows, wanted: int, least: int, most: int) -> Rows:
    """The groups, by number, that hold about `wanted` images: in their order, each that brings the sum nearer."""
    chosen, total = list[int](), 0
    for group, size in enumerate(sizes.tolist()):
        if total + size <= most and (total < least or abs(total + size - wanted) < abs(total - wanted)):
            chosen.append(group)
            total += size
    return np.array(chosen, dtype=np.int64)


def split_notes(config: DataConfig, source: Source, train: Rows, heldout: Rows) -> list[str]:
    """What came out of a split that keeps groups whole, in words; nothing of another."""
    if source.groups is None:
        return []
    done = []
    for rows, asked in ((train, config.train_size), (heldout, config.heldout_size)):
        off = f" ({asked:,} asked for)" if asked not in (None, len(rows)) else ""
        done.append(f"{len(rows):,} images of {len(np.unique(source.groups[rows])):,} groups{off}")
    return [f"groups by {_grouping(config)} are kept whole: {done[0]} train, {done[1]} are held out"]


def _grouping(config: DataConfig) -> str:
    column, pattern = config.group_column, config.group_pattern
    return f"data.group_pattern={pattern}" if column is None else f"data.group_column={column}"


def default_heldout(count: int) -> int:
    """How many of `count` images are held out unless the config says so."""
    tenth = count - count * 9 // 10
    return tenth if tenth >= ENOUGH_HELDOUT else min(ENOUGH_HELDOUT + SPARE_HELDOUT, count // 2)


def shortened(config: DataConfig, train: Rows, heldout: Rows, where: str) -> tuple[Rows, Rows]:
    """The first training and the last held-out images, as many as the config asks for.

    Raises UserError, which ends with `where` and the cure, where there are fewer.
    """
    for part, asked, rows in (("train", config.train_size, train), ("heldout", config.heldout_size, heldout)):
        if asked is not None and asked > len(rows):
            raise UserError(f"data.{part}_size: {asked} is more than the {len(rows)} in {where}")
    return train[: config.train_size], heldout[len(heldout) - (config.heldout_size or len(heldout)) :]
