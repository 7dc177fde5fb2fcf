"""When training has gone wrong: a value that is not finite, or a loss far above what it was."""

import math
from statistics import median

from ambient_sweep.errors import TrainingDiverged

REMEMBERED = 16  # losses that the median is taken of
FEWEST = 4  # losses before which nothing counts as a spike


def check_finite(images: int, loss: float, consistency: float, gradient_norm: float) -> None:
    """Raises TrainingDiverged where one of the means up to `images` is not finite."""
    for name, value in (("loss", loss), ("consistency loss", consistency), ("gradient norm", gradient_norm)):
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the {name} is not finite at {images} images ({value}); lower optimizer.lr or consistency.weight"
            )


def check_spike(images: int, loss: float, before: list[float], factor: float | None) -> None:
    """Raises TrainingDiverged where the loss is above `factor` times the median of those before; else remembers it."""
    if factor is not None and len(before) >= FEWEST and loss > factor * median(before):
        raise TrainingDiverged(
            f"the loss is {loss:.4g} at {images} images, more than training.spike={factor:g} times its running median "
            f"{median(before):.4g}; lower optimizer.lr"
        )
    before.append(loss)
    del before[:-REMEMBERED]
