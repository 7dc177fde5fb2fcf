"""CIFAR-10's binary version, as its authors publish it."""

from pathlib import Path

import numpy as np

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.arrays import array_source
from ambient_sweep.data.sources.source import Source, source_path
from ambient_sweep.errors import UserError

FOLDER = "cifar-10-batches-bin"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 3 * 32 * 32  # bytes: the label, then rows of red, of green and of blue


def open_cifar10(config: DataConfig) -> Source:
    """data_batch_1.bin to 5, then test_batch.bin, in the folder `data.path` or one below it. Raises UserError."""
    root = source_path(config)
    folder = next((each for each in (root, root / FOLDER) if (each / "test_batch.bin").is_file()), None)
    if folder is None:
        raise UserError(
            f"data.path: {config.path} holds no test_batch.bin, nor does {FOLDER} in it; fetch CIFAR-10's binary "
            "version, or read the Python version's images from Parquet or a folder"
        )
    files = [*sorted(folder.glob("data_batch_*.bin")), folder / "test_batch.bin"]
    batches = [_records(file) for file in files]
    for file, batch in zip(files, batches, strict=True):
        if len(batch) != len(batches[-1]):
            raise UserError(f"{file}: holds {len(batch)} records instead of {len(batches[-1])}; fetch CIFAR-10 anew")
    records = np.concatenate(batches)
    test = len(batches[-1])
    names = [f"train-{i:05d}" for i in range(len(records) - test)] + [f"test-{i:05d}" for i in range(test)]
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = records[:, 0].astype(np.int64), CLASSES
    return array_source(images, names, config.image_size, config.channels, str(folder), labels)


def _records(file: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """[n, RECORD]. Raises UserError."""
    try:
        content = np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    if not len(content) or len(content) % RECORD or content[::RECORD].max() >= len(CLASSES):
        raise UserError(f"{file}: is not a file of CIFAR-10's binary version, or cut off; fetch it anew")
    return content.reshape(-1, RECORD)
