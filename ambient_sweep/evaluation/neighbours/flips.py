"""Nearest neighbours where a mirrored image counts as that image."""

import torch
from torch import Tensor

from ambient_sweep.evaluation.neighbours.exact import Targets, best_of, nearest


def nearest_with_flips(
    images: Tensor, targets: Targets, k: int, *, device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor]:
    """As `nearest`, of images [N, C, H, W], where a target counts by the nearer of itself and its mirror image."""
    return merge_flips(
        nearest(images, targets, k, device=device), nearest(images.flip(-1), targets, k, device=device), k
    )


def merge_flips(plain: tuple[Tensor, Tensor], mirrored: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of two searches in the same targets, each target once, by the lesser of its distances."""
    distances, indices = torch.cat([plain[0], mirrored[0]], 1), torch.cat([plain[1], mirrored[1]], 1)
    order = distances.sort(dim=1, stable=True).indices
    order = order.gather(1, indices.gather(1, order).sort(dim=1, stable=True).indices)  # by index, then by distance
    distances, indices = distances.gather(1, order), indices.gather(1, order)
    distances[:, 1:].masked_fill_(indices[:, 1:] == indices[:, :-1], torch.inf)  # the farther of a target met twice
    return best_of(distances, indices, k)
