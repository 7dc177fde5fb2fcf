"""Class numbers and noise levels that come with a source, checked."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.errors import UserError

MAX_CLASSES = 1_000_000
LOWEST_LEVEL, HIGHEST_LEVEL = 1e-6, 100.0  # of an image's own noise, besides 0; the highest is observed.sigma's
LEVELS_WANTED = f"0, or {LOWEST_LEVEL:g} to {HIGHEST_LEVEL:g}, is needed"

Labels = tuple[NDArray[np.int64] | None, tuple[str, ...]]  # class numbers [N], class names


def numbered(names: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class numbers of class names, in the order of the names."""
    classes = sorted(set(names))
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers[name] for name in names], dtype=np.int64), tuple(classes)


def class_numbers(
    values: NDArray[np.integer], where: str, names: tuple[str, ...] = ()
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Checked class numbers [N] and the classes' names, "0", "1", ... unless given.

    Raises UserError, with `where`, for a number below 0 or without a name.
    """
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0:
        raise UserError(
            f"{where}: holds the label {lowest}; class numbers begin at 0 (data.label_column=null: no labels)"
        )
    if names and highest >= len(names):
        raise UserError(f"{where}: holds the label {highest}, but there are names for {len(names)} classes")
    if highest >= MAX_CLASSES:
        raise UserError(f"{where}: holds the label {highest}; class numbers from 0 on are needed, not identifiers")
    return values.astype(np.int64), names or tuple(str(number) for number in range(highest + 1))


def noise_levels(
    values: NDArray[np.floating] | NDArray[np.integer], where: str, names: Sequence[str]
) -> NDArray[np.float32]:
    """Noise levels [N] of the images `names` as float32; NaN stays, for an image without one.

    Raises UserError, with `where` and the image, for a level that is out of range.
    """
    bad = bad_levels(values)
    if len(bad):
        raise UserError(f"{where}: {names[bad[0]]} has the noise level {values[bad[0]]}; {LEVELS_WANTED}")
    return values.astype(np.float32)


def bad_levels(values: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.int64]:
    """Where noise levels are out of range."""
    good = (values == 0) | ((values >= LOWEST_LEVEL) & (values <= HIGHEST_LEVEL)) | (values != values)
    return np.flatnonzero(~good)


def no_columns(config: DataConfig) -> None:
    """Raises UserError where an own noise level is asked of a source that cannot hold one."""
    if config.sigma_column is not None:
        raise UserError(f"data.sigma_column: data.source={config.source} holds no noise levels; set it to null")
