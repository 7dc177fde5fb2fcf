"""The noise level, and the class where there is one, as features."""

import torch
from torch import nn

FREQUENCIES = 16
LABEL_STD = 0.3  # the size of the noise level's own features in a U-Net or DiT at the start


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
