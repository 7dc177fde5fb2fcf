"""The real images that generated ones are compared with."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ambient_sweep.data.dataset import ImageData
from ambient_sweep.data.evaluation_set import ImageSet, check_alike, unseen
from ambient_sweep.errors import UserError


@dataclass(frozen=True)
class RealImages:
    """The training images, and held-out images of the same kind that are not among them.

    kept: places of `heldout` among the held-out images that were given; the others are training images too. labels:
    classes of the held-out images, for fd_classifier.
    """

    train: ImageSet
    heldout: ImageSet
    kept: NDArray[np.int64]
    labels: Tensor | None = None

    @classmethod
    def of(cls, train: ImageSet, heldout: ImageSet, labels: Tensor | None = None) -> "RealImages":
        """Leaves out held-out images that are training images too. Raises UserError for sets unlike or too small."""
        check_alike(train, heldout)
        kept = unseen(heldout, train)
        dropped = len(heldout) - len(kept)
        for images, count in ((train, len(train)), (heldout, len(kept))):
            if count < 2:
                seen = f" ({dropped} others are training images too)" if images is heldout and dropped else ""
                raise UserError(f"{images.where}: evaluation needs at least 2 images, found {count}{seen}; add others")
        if dropped:
            heldout = heldout.subset(kept)
            labels = None if labels is None else labels[torch.from_numpy(kept)]
        return cls(train, heldout, kept, labels)

    @classmethod
    def of_data(cls, data: ImageData) -> "RealImages":
        """The clean images of a run. Raises UserError as `of` does."""
        train = ImageSet.of("the training images", data.train)
        return cls.of(train, ImageSet.of("the held-out images", data.heldout), data.heldout_labels)
