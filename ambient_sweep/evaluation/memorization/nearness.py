"""How near images are to the training images: what every measure of memorization is made from."""

from dataclasses import dataclass

from torch import Tensor

from ambient_sweep.evaluation.memorization.copies import LOCAL
from ambient_sweep.evaluation.memorization.similarity import nearest_similarity
from ambient_sweep.evaluation.neighbours import merge_flips, nearest


@dataclass(frozen=True)
class Nearness:
    """Distances of N images to the training images, L2 of thumbnails, and their similarity in an encoder's features."""

    distances: Tensor  # float64 [N, k] to the nearest LOCAL + 1, or to all where there are fewer, nearest first
    indices: Tensor  # int64 [N, k], of these training images
    flips: Tensor  # float64 [N, 2], where a mirrored training image counts as that image
    similarities: Tensor | None = None  # float64 [N], cosine to the most similar training image

    @classmethod
    def of(
        cls, small: Tensor, train: Tensor, features: Tensor | None = None, similar: Tensor | None = None, *,
        device: str = "cpu",
    ) -> "Nearness":  # fmt: skip
        """Of thumbnails float32 [N, C, h, w] and features [N, D]; `train` and `similar` are those of training images.

        Results are on `device`.
        """
        distances, indices = nearest(small, train, min(LOCAL + 1, len(train)), device=device)
        mirrored = nearest(small.flip(-1), train, 2, device=device)
        flips = merge_flips((distances[:, :2], indices[:, :2]), mirrored)
        similarities = None
        if features is not None and similar is not None:
            similarities = nearest_similarity(features, similar, device=device)
        return cls(distances, indices, flips, similarities)
