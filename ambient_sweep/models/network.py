"""What all networks share: the signature, the features of noise level and class, activation checkpointing."""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

FREQUENCIES = 16
LABEL_STD = 0.3  # the size of the noise level's own features in a U-Net or DiT at the start


class Network(nn.Module):
    """F in EDM's preconditioning: (x [N,C,H,W], c_noise [N], labels int64 [N] or None) -> [N,C,H,W].

    With `classes` classes, labels are 0..classes, the last for "no label"; None means no label for all images.
    """

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        raise NotImplementedError

    def blocks_to_wrap(self) -> list[nn.Module]:
        """The repeated blocks, which checkpointing works on; here those of `self.blocks`."""
        assert isinstance(self.blocks, nn.ModuleList)
        return list(self.blocks)


class NoiseEmbedding(nn.Module):
    """c_noise [N] and labels [N] to [N, width]: SiLU(MLP(sines and cosines of geometric frequencies) + a row per label).

    With classes > 0 there are classes + 1 rows; the last stands for "no label", as does labels = None. Computed in the
    precision of the weights, under autocast too: in bf16 neighbouring noise levels would share their features.
    """

    frequencies: torch.Tensor

    def __init__(self, width: int, classes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("frequencies", 2.0 ** torch.linspace(-2, 4, FREQUENCIES), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.labels = nn.Embedding(classes + 1, width) if classes > 0 else None
        if self.labels is not None:
            nn.init.normal_(self.labels.weight, std=LABEL_STD)

    def forward(self, c_noise: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        with torch.autocast(c_noise.device.type, enabled=False):
            angles = c_noise.float()[:, None] * self.frequencies
            features = torch.cat([angles.cos(), angles.sin()], dim=1)
            h = self.mlp(features.to(next(self.mlp.parameters()).dtype))
            if self.labels is not None:
                if labels is None:
                    labels = torch.full_like(c_noise, self.classes, dtype=torch.int64)
                h = h + self.labels(labels)
            output: torch.Tensor = nn.functional.silu(h)
        return output


def checkpoint_activations(network: nn.Module) -> None:
    """Makes each repeated block drop its activations and compute them again in the backward pass.

    Keeps the names of the weights. No generator state is restored, since no block draws random numbers. Call it before
    torch.compile.
    """
    assert isinstance(network, Network)
    for block in network.blocks_to_wrap():
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def unit_(layer: nn.Conv2d | nn.Linear) -> None:
    """Weights that keep the variance (standard deviation 1 / sqrt(fan-in)), no bias."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def zero_(layer: nn.Conv2d | nn.Linear) -> None:
    """Weights and bias 0: a branch that starts as zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
