"""CIFAR-10's binary version, as its authors publish it."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.annotations import LABEL
from ambient_sweep.data.sources.arrays import array_source
from ambient_sweep.data.sources.source import Source, source_path
from ambient_sweep.data.sources.table import Table
from ambient_sweep.errors import UserError

FOLDER = "cifar-10-batches-bin"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = np.dtype([("label", "u1"), ("image", "u1", (3, 32, 32))])


def open_cifar10(config: DataConfig) -> Source:
    """data_batch_1.bin to 5, then test_batch.bin, in the folder `data.path` or one below it. Raises UserError."""
    root = source_path(config)
    folder = root / FOLDER if (root / FOLDER).is_dir() else root
    train = [_records(file) for file in sorted(folder.glob("data_batch_*.bin"))]
    test = _records(folder / "test_batch.bin")
    records = np.concatenate([*train, test])
    names = [f"train-{i:05d}" for i in range(len(records) - len(test))] + [f"test-{i:05d}" for i in range(len(test))]
    columns = Table(str(folder), len(records), [LABEL], lambda _: np.array(CLASSES)[records["label"]])
    return array_source(records["image"].transpose(0, 2, 3, 1), names, config, columns)


def _records(file: Path) -> NDArray[Any]:
    """RECORD [n]. Raises UserError."""
    try:
        records = np.frombuffer(file.read_bytes(), RECORD)
        if records["label"].max() < len(CLASSES):
            return records
        why = "a label is out of range"
    except OSError as error:
        why = str(error.strerror)
    except ValueError:  # of frombuffer, and of max where there is no record
        why = "it is cut off"
    raise UserError(
        f"data.path: {file} cannot be read ({why}); give the folder of the .bin files of CIFAR-10's binary version"
    )
