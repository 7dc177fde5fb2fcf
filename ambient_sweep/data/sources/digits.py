"""The handwritten digits that come with scikit-learn."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.arrays import ArraySource
from ambient_sweep.data.sources.columns import no_columns
from ambient_sweep.data.sources.source import Form


def open_digits(config: DataConfig) -> ArraySource:
    """1,797 digits, 8x8, with 17 grey levels, hence floats (UCI, Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits

    no_columns(config)
    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)

    def parts(size: int) -> Iterator[NDArray[Any]]:
        return (images[start : start + size] for start in range(0, len(images), size))

    names = [f"digit-{i:04d}" for i in range(len(images))]
    form = Form(config.image_size, config.channels, depth8=False)
    return ArraySource(parts, "NHW", names, bunch.target.astype(np.int64), tuple("0123456789"), None, form)
