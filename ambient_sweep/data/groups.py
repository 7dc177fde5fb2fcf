"""A split that keeps groups whole: the images of a patient, a burst or an author all train, or are all held out."""

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.errors import UserError

WINDOW = 32  # groups before and after the size asked for, of which the nearest sum is found
Rows = NDArray[np.int64]


def split_groups(
    order: Rows, groups: Rows, train_size: int | None, heldout_size: int, least: int, by: str
) -> tuple[Rows, Rows]:
    """The training and the held-out images among `order`, in whole groups, as near to the sizes as these allow.

    Groups come in the order of their first images. The first train and the last are held out; near the sizes, some are
    passed over for others that fit better. groups: [N], by place in the source. train_size: None for all that is not held
    out. least: held-out images at least. Raises UserError, which begins with `by`, for too few groups.
    """
    _, first, inverse = np.unique(groups[order], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[inverse]  # per image, the place of its group
    sizes = np.bincount(rank)
    heldout = len(sizes) - 1 - _nearest(sizes[::-1], heldout_size, least, len(order) - 1, by)
    train = np.setdiff1d(np.arange(len(sizes)), heldout)
    if train_size is not None:
        train = train[_nearest(sizes[train], train_size, 1, len(order), by)]
    order, rank = order[np.argsort(rank, kind="stable")], np.sort(rank)
    return order[np.isin(rank, train)], order[np.isin(rank, heldout)]


def _nearest(sizes: Rows, wanted: int, least: int, most: int, by: str) -> Rows:
    """The groups, by number, that hold together nearest to `wanted` images and from `least` to `most`.

    All of the first; of those around the size, the earliest that make up the nearest sum.
    """
    start = max(0, int(np.searchsorted(np.cumsum(sizes), wanted)) - WINDOW)
    before, some = int(sizes[:start].sum()), sizes[start : start + 2 * WINDOW].tolist()
    sums = [1]  # bit n after k groups: whether some of these hold n images
    for size in some:
        sums.append(sums[-1] | sums[-1] << size)
    possible = [n for n, bit in enumerate(bin(sums[-1])[:1:-1]) if bit == "1" and least <= before + n <= most]
    if not possible:
        held = f"{len(sizes)} groups, the largest of {sizes.max()} images"
        raise UserError(f"{by}: {held}, cannot be shared out between training and held-out images; name smaller groups")
    left, chosen = min(possible, key=lambda n: abs(before + n - wanted)), list[int]()
    for place in reversed(range(len(some))):
        if not sums[place] >> left & 1:
            chosen.insert(0, start + place)
            left -= some[place]
    return np.array([*range(start), *chosen])
