"""What all networks share: the signature, the repeated blocks, activation checkpointing."""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


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
