"""What comes with images: class numbers, noise levels, groups and captions, with their checks."""

import codecs
import dataclasses
import re
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.file_kinds import part_note
from ambient_sweep.data.sources.metadata import ReadFile, read_metadata
from ambient_sweep.data.sources.parts import SPLIT, parts, published
from ambient_sweep.data.sources.source import Columns, Source, read_column, value_name
from ambient_sweep.errors import UserError

MAX_CLASSES = 1_000_000
LOWEST_LEVEL, HIGHEST_LEVEL = 1e-6, 100.0  # of an image's own noise, besides 0; the highest is observed.sigma's
LABELS_FILE = "dataset.json"
LABEL_COLUMN = DataConfig.model_fields["label_column"].default


class _LabelsFile(BaseModel):
    labels: list[tuple[str, Annotated[int, Field(strict=True, ge=0, lt=MAX_CLASSES)]]] | None = None


def annotated(source: Source, config: DataConfig, columns: Columns, where: str) -> Source:
    """The source, or its images in the parts of `data.split`, with what the columns that `config` names say of each.

    There are no labels where the default column is missing. Where its values cannot be labels, the source says why: only
    a conditional model needs them. Raises UserError, which begins with `where`.
    """
    return _annotated(*published(source, config, columns, where), config, where)


def _annotated(source: Source, columns: Columns, config: DataConfig, where: str) -> Source:
    count, label, level, group = len(source), config.label_column, config.sigma_column, config.group_column
    changes: dict[str, Any] = {"text": columns.get("text")}
    notes = [*source.notes]
    if label is not None and (label in columns or label != LABEL_COLUMN):
        try:
            values = read_column(columns, label, count, where)
            changes["labels"], changes["classes"] = _class_labels(values, f"{where}: {label}")
        except UserError as error:
            if label != LABEL_COLUMN:
                raise
            changes["unlabelled"] = str(error)
            notes.append(f"labels are left out: {error}")
    if level is not None:
        values = read_column(columns, level, count, where)
        changes["sigma"] = _noise_levels(values, f"{where}: {level}", source.names)
    pattern, split = config.group_pattern, config.split.train
    if group is not None or pattern is not None:
        values = _matches(pattern, source.names) if pattern else read_column(columns, str(group), count, where)
        changes["groups"], alone = _groups(values)
        if alone:
            notes.append(f"{alone:,} images are in no group; each counts as a group of its own")
    for used, name, cure in (
        (level, "sigma", "data.sigma_column=sigma"),
        (group or pattern or split, "group", "data.group_column=group"),
        (split, SPLIT, "data.split={train: VALUE, heldout: VALUE}"),
    ):
        if name in columns and used is None:
            notes.append(f"the column {name} is not used; {cure} uses it")
    return dataclasses.replace(source, **changes, notes=tuple(notes))


def _class_labels(values: NDArray[Any], where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
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


def _noise_levels(values: NDArray[Any], where: str, names: Sequence[str]) -> NDArray[np.float32]:
    """Noise levels [N] of the images `names`; NaN stays, for an image without one."""
    if values.dtype.kind not in "fiu":
        raise UserError(f"{where}: is {values.dtype}; noise levels must be numbers")
    good = (values == 0) | ((values >= LOWEST_LEVEL) & (values <= HIGHEST_LEVEL)) | np.isnan(values)
    if not good.all():
        bad = int(np.argmin(good))
        wanted = f"it must be 0, or from {LOWEST_LEVEL:g} to {HIGHEST_LEVEL:g}"
        raise UserError(f"{where}: the noise level of {names[bad]} is {values[bad]}; {wanted}")
    return values.astype(np.float32)


def _groups(values: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Group numbers [N] by a column [N], and how many images have none there: each of these is a group of its own."""
    names = [value_name(value) or row for row, value in enumerate(values.tolist())]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names]), sum(isinstance(name, int) for name in names)


def _matches(pattern: str, names: Sequence[str]) -> NDArray[Any]:
    """What the first group of the pattern finds in each name, None for nothing. Raises UserError where no name matches."""
    found = [re.search(pattern, name) for name in names]
    if not any(found):
        raise UserError(f"data.group_pattern: {pattern} matches no name, such as {names[0]}")
    return np.array([match and match[1] for match in found], dtype=object)


# -- files beside a folder's images ---------------------------------------------------------------------------------


def annotated_by_files(source: Source, config: DataConfig, read: ReadFile) -> Source:
    """The source with what its metadata files say; labels, else, by `dataset.json` or by the first subfolders.

    read: a file beside the images. Raises UserError.
    """
    columns, notes = read_metadata(source.names, read, config)
    for key in ("label_column", "sigma_column", "group_column"):
        name = getattr(config, key)
        if name not in (None, LABEL_COLUMN, *columns):
            cure = f"write metadata.csv with the columns file_name and {name}, or set the key to null"
            if key == "sigma_column" and read("levels.csv") is not None:  # of versions before 0.7
                cure = "rename levels.csv to metadata.csv, and its column name to file_name"
            raise UserError(f"data.{key}: no metadata file in {config.path} has the column {name}; {cure}")
    where = f"{config.path}: metadata"
    source, columns = published(dataclasses.replace(source, notes=(*source.notes, *notes)), config, columns, where)
    if config.label_column == LABEL_COLUMN and LABEL_COLUMN not in columns:
        folders = "|".join(map(re.escape, parts(config) or ()))
        below = [re.sub(f"^({folders})/", "", name) for name in source.names]
        labels = _folder_labels(source.names, below, read, f"{config.path}/{LABELS_FILE}")
        columns = columns if labels is None else {**columns, LABEL_COLUMN: lambda: labels}
    return _annotated(source, columns, config, where)


def _folder_labels(names: Sequence[str], below: Sequence[str], read: ReadFile, where: str) -> NDArray[Any] | None:
    """Class numbers by `dataset.json` (EDM's and StyleGAN's format) where there is one, else names of first subfolders.

    Subfolders, those in the names `below` the folders of a split, are classes where every image lies in one, there are at
    least two, and they are no parts of a data set.
    """
    data = read(LABELS_FILE)
    if data is None:
        folders = [name.split("/", 1)[0] for name in below]
        classes = all("/" in name for name in below) and len(set(folders)) > 1 and not part_note(below)
        return np.array(folders) if classes else None
    try:
        entries = _LabelsFile.model_validate_json(data.removeprefix(codecs.BOM_UTF8)).labels
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        form = '{"labels": [[name, class number], ...]}'
        raise UserError(f"{where}: must be {form}; {at + ': ' if at else ''}{first['msg']}") from None
    if entries is None:
        return None  # as EDM's dataset tool writes it for images without labels
    numbers = dict(entries)
    missing = next((name for name in names if name not in numbers), None)
    if missing is not None:
        raise UserError(f"{where}: has no label for {missing}")
    return np.array([numbers[name] for name in names])
