"""What the columns that come with images say of them: class numbers, noise levels and groups, with their checks."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.parts import SPLIT, part_note, parts
from ambient_sweep.data.sources.source import Source
from ambient_sweep.data.sources.table import Values, value_name
from ambient_sweep.errors import UserError, errors_of

MAX_CLASSES = 1_000_000
LOWEST_LEVEL, HIGHEST_LEVEL = 1e-6, 100.0  # of an image's own noise, besides 0; the highest is observed.sigma's
LABEL, TEXT = "label", "text"  # columns of these names; captions are kept for later use
AUTOMATIC = DataConfig.model_fields["label_column"].default


def annotated(source: Source, config: DataConfig) -> Source:
    """The source with what the columns that `config` names say of its images. Raises UserError.

    Labels that no key names, in a column `label` or by class folders, may be missing. Where they cannot be labels, the
    source says why: only a conditional model needs them.
    """
    columns, level, pattern = source.columns, config.sigma_column, config.group_pattern
    notes, changes = [*source.notes], dict[str, Any]()
    try:
        if (labels := _labels(source, config)) is not None:
            changes["labels"], changes["classes"] = _class_numbers(*labels)
    except UserError as error:
        if config.label_column != AUTOMATIC:
            raise UserError(f"data.label_column: {error}") from None
        changes["unlabelled"] = str(error)
        notes.append(f"labels are left out: {error}")
    if level is not None:
        with errors_of("data.sigma_column"):
            changes["sigma"] = _noise_levels(columns.read(level), f"{columns.where}: {level}", source.names)
    if pattern is not None or config.group_column is not None:
        found = [re.search(pattern, name) for name in source.names] if pattern else []
        if pattern and not any(found):
            raise UserError(f"data.group_pattern: {pattern} matches no name, such as {source.names[0]}")
        with errors_of("data.group_column"):
            values = [match and match[1] for match in found] or columns.read(str(config.group_column)).tolist()
        names = [value_name(value) or row for row, value in enumerate(values)]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        changes["groups"] = np.array([numbers[name] for name in names])
        if alone := sum(isinstance(name, int) for name in names):
            notes.append(f"{alone:,} images are in no group; each counts as a group of its own")
    grouped = config.group_column or pattern or config.split.train
    for used, name, cure in (
        (level, "sigma", "data.sigma_column=sigma"),
        (grouped, "group", "data.group_column=group"),
        (config.split.train, SPLIT, "data.split={train: VALUE, heldout: VALUE}"),
    ):
        if name in columns and used is None:
            notes.append(f"the column {name} is not used; {cure} uses it")
    return dataclasses.replace(source, **changes, notes=tuple(notes))


def _labels(source: Source, config: DataConfig) -> tuple[Values, str] | None:
    """Class numbers or names [N] and where they are from; None where there are none and no key asks for them."""
    if config.label_column is None:
        return None
    name = LABEL if config.label_column == AUTOMATIC else config.label_column
    if name in source.columns or config.label_column != AUTOMATIC:
        return source.columns.read(name), f"{source.columns.where}: {name}"
    if config.source not in ("folder", "zip"):
        return None
    split = "|".join(map(re.escape, parts(config) or ()))
    below = [re.sub(f"^({split})/", "", name) for name in source.names]
    folders = [name.split("/", 1)[0] for name in below]
    if all("/" in name for name in below) and len(set(folders)) > 1 and not part_note(below):
        return np.array(folders), "class folders"
    return None


def _class_numbers(values: Values, where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class numbers [N] and class names by a column [N] of numbers, named "0", "1", ..., or of names, in their order."""
    if values.dtype.kind not in "iu":
        if not all(isinstance(each, str) for each in values.tolist()):
            form = "labels must be whole numbers or strings, none missing; data.label_column=null leaves them out"
            raise UserError(f"{where}: is {values.dtype}; {form}")
        names, numbers = np.unique(values, return_inverse=True)
        return numbers.astype(np.int64), tuple(names.tolist())
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest >= MAX_CLASSES:
        bad = lowest if lowest < 0 else highest
        raise UserError(f"{where}: the label {bad} is out of range; class numbers are 0 to {MAX_CLASSES - 1:,}")
    return values.astype(np.int64), tuple(map(str, range(highest + 1)))


def _noise_levels(values: Values, where: str, names: Sequence[str]) -> NDArray[np.float32]:
    """Noise levels [N] of the images `names`; NaN for an image without one."""
    try:
        levels = np.array([np.nan if value is None else float(value) for value in values.tolist()])
    except (TypeError, ValueError):
        raise UserError(f"{where}: is {values.dtype}; noise levels must be numbers") from None
    good = (levels == 0) | ((levels >= LOWEST_LEVEL) & (levels <= HIGHEST_LEVEL)) | np.isnan(levels)
    if not good.all():
        bad = int(np.argmin(good))
        wanted = f"it must be 0, or from {LOWEST_LEVEL:g} to {HIGHEST_LEVEL:g}"
        raise UserError(f"{where}: the noise level of {names[bad]} is {levels[bad]}; {wanted}")
    return levels.astype(np.float32)
