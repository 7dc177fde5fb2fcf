"""The moving averages of the weights that training tracks: one half-life, or two power functions (EDM2).

Weights come in the order of `denoiser.parameters()` and keep their device. Every average is updated in place, all
parameters at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ambient_sweep.config import EmaConfig
from ambient_sweep.diffusion.ema import decay, ema_decay, ema_update, gamma_from_length

HALFLIFE = "halflife"


def average_name(length: float) -> str:
    """The name of a tracked average, as 0.05."""
    return repr(float(length))


@dataclass(frozen=True)
class Averages:
    """`models[average]` holds its weights, float32, in the order of `names`, the names of the parameters."""

    config: EmaConfig
    names: tuple[str, ...]
    models: dict[str, list[torch.Tensor]]

    @classmethod
    def create(cls, config: EmaConfig, denoiser: nn.Module) -> "Averages":
        tracked = [HALFLIFE] if config.kind == "halflife" else map(average_name, config.tracked)
        named = dict(denoiser.named_parameters())
        models = {average: [p.detach().to(torch.float32, copy=True) for p in named.values()] for average in tracked}
        return cls(config, tuple(named), models)

    def update(self, weights: Iterable[torch.Tensor], images_before: int, images: int) -> None:
        """Adds the weights after the step from `images_before` to `images`."""
        live, c = [weight.detach() for weight in weights], self.config
        for average, model in self.models.items():
            if average == HALFLIFE:
                kept = ema_decay(images, images - images_before, c.halflife, c.rampup)
            else:
                kept = decay(images_before, images, gamma_from_length(float(average)))
            ema_update(model, live, kept)

    def main(self) -> dict[str, torch.Tensor]:
        """The average to evaluate, a tracked one, parameter by parameter: the stored tensors, which `update` changes."""
        average = HALFLIFE if self.config.kind == "halflife" else average_name(self.config.length)
        return dict(zip(self.names, self.models[average], strict=True))

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of them for a file, under `<average>.<parameter>`; the stored tensors themselves."""
        return {
            f"{average}.{name}": tensor
            for average, model in self.models.items()
            for name, tensor in zip(self.names, model, strict=True)
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for key, mine in self.tensors().items():
            mine.copy_(tensors[key])


def part(tensors: Mapping[str, torch.Tensor], average: str) -> dict[str, torch.Tensor]:
    """The tensors named `<average>.<parameter>`, as in `Averages.tensors`, under the names of the parameters."""
    prefix = f"{average}."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
