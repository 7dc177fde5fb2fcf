"""The moving averages of the weights that training tracks: one half-life, or two power functions (EDM2).

Weights come in the order of `denoiser.parameters()` and keep their device. Every average is updated in place, all
parameters at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ambient_sweep.config import EmaConfig
from ambient_sweep.diffusion.ema import ema_decay, ema_update
from ambient_sweep.diffusion.power_ema import decay, gamma_from_length
from ambient_sweep.errors import UserError

HALFLIFE = "halflife"


def average_name(length: float) -> str:
    """The name of a tracked average, as 0.05."""
    return repr(float(length))


def average_names(config: EmaConfig) -> tuple[str, ...]:
    """The averages that training tracks."""
    return (HALFLIFE,) if config.kind == "halflife" else tuple(average_name(length) for length in config.tracked)


@dataclass(frozen=True)
class Averages:
    """`models[average]` holds its weights, float32, in the order of `names`, the names of the parameters."""

    config: EmaConfig
    names: tuple[str, ...]
    models: dict[str, list[torch.Tensor]]

    @classmethod
    def create(cls, config: EmaConfig, denoiser: nn.Module) -> "Averages":
        """Averages that begin as copies of the weights."""
        named = dict(denoiser.named_parameters())
        models = {
            average: [p.detach().to(torch.float32, copy=True) for p in named.values()]
            for average in average_names(config)
        }
        return cls(config, tuple(named), models)

    def update(self, weights: Iterable[torch.Tensor], images_before: int, images: int) -> None:
        """Adds the weights after the step from `images_before` to `images`."""
        live = [weight.detach() for weight in weights]
        for average, model in self.models.items():
            ema_update(model, live, self._decay(average, images_before, images))

    def _decay(self, average: str, images_before: int, images: int) -> float:
        c = self.config
        if average == HALFLIFE:
            return ema_decay(images, images - images_before, c.halflife, c.rampup)
        return decay(images_before, images, gamma_from_length(float(average)))

    @property
    def needs_reconstruction(self) -> bool:
        """Whether the average to evaluate must be reconstructed from snapshots, as `posthoc_ema` does."""
        return self.config.kind == "power" and average_name(self.config.length) not in self.models

    def main(self) -> dict[str, torch.Tensor]:
        """The average to evaluate, parameter by parameter: the stored tensors themselves, which the next update changes.

        Raises UserError where ema.length is not tracked.
        """
        if self.needs_reconstruction:
            raise UserError(
                f"ema.length: {self.config.length} is not among ema.tracked, and it must be reconstructed from snapshots"
            )
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
        """Loads what `tensors` returned. Raises UserError if one is missing."""
        for key, mine in self.tensors().items():
            value = tensors.get(key)
            if value is None or value.shape != mine.shape:
                raise UserError(f"the average {key} is missing or has another shape; it belongs to another config")
            mine.copy_(value)


def part(tensors: Mapping[str, torch.Tensor], average: str) -> dict[str, torch.Tensor]:
    """The tensors named `<average>.<parameter>`, as in `Averages.tensors`, under the names of the parameters."""
    prefix = f"{average}."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
