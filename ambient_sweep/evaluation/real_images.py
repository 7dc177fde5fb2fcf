"""The real images that generated ones are compared with."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ambient_sweep.data.dataset import ImageData
from ambient_sweep.data.evaluation_set import ImageSet, check_alike, overlap
from ambient_sweep.errors import UserError


@dataclass(frozen=True)
class RealImages:
    """The training images, and held-out images of the same kind that are not among them.

    kept: places of `heldout` among the held-out images of the data they come from. labels: classes of the held-out
    images, for fd_classifier.
    """

    train: ImageSet
    heldout: ImageSet
    kept: NDArray[np.int64]
    labels: Tensor | None = None

    @classmethod
    def of(cls, data: ImageData) -> "RealImages":
        """The clean images of a run; held-out images that are training images as well are left out.

        Raises UserError where fewer than two of either are left.
        """
        if len(data.heldout) < 2 or len(data.train) < 2:
            raise UserError(
                f"data: evaluation needs at least 2 training and 2 held-out images, there are {len(data.train)} and "
                f"{len(data.heldout)}; add images or change data.train_size"
            )
        train = ImageSet.of("the training images", data.train)
        heldout = ImageSet.of("the held-out images", data.heldout)
        seen = [place for _, place in overlap(train, heldout)]
        kept = np.delete(np.arange(len(heldout)), seen)
        if len(kept) < 2:
            raise UserError(
                f"data: {len(seen)} held-out images are training images, {len(kept)} are not; hold out others"
            )
        labels = data.heldout_labels
        if seen:
            heldout = heldout.subset(kept)
            labels = None if labels is None else labels[torch.from_numpy(kept)]
        return cls(train, heldout, kept, labels)

    @classmethod
    def disjoint(cls, train: ImageSet, heldout: ImageSet, labels: Tensor | None = None) -> "RealImages":
        """Two given sets. Raises UserError where they differ in form, overlap, or hold fewer than two images."""
        check_alike(train, heldout)
        pairs = overlap(train, heldout)
        if pairs:
            mine, theirs = pairs[0]
            raise UserError(
                f"{heldout.where}: {len(pairs)} of {len(heldout)} images are training images too "
                f"({heldout.names[theirs]} is {train.names[mine]} of {train.where}), which hides memorization; "
                "remove them, or use --drop-overlap"
            )
        for images in (train, heldout):
            if len(images) < 2:
                raise UserError(f"{images.where}: holds {len(images)} image; a measurement needs at least 2")
        return cls(train, heldout, np.arange(len(heldout)), labels)
