"""LoRA (arXiv 2106.09685) on a frozen base of diffusers: a network whose parameters are the adapters alone.

A process reads the weights of a base once, in each precision in which it computes; all its models share them.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn

from ambient_sweep import rng
from ambient_sweep.errors import UserError
from ambient_sweep.latent.base import Base, read_json, weight_files
from ambient_sweep.latent.captions import embeddings
from ambient_sweep.latent.components import loading
from ambient_sweep.models.network import Network

BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D", "JointTransformerBlock")


class LoRA(Network):
    """A Network that predicts what the base does, with c_noise its timestep and labels the captions of the store `data`.

    Adapters add B A x of `rank` (alpha = rank), A drawn with standard deviation 1 / rank, B = 0: at first the model is the
    base, which computes in bf16 under autocast and is not one of this module's modules. Raises UserError for targets that
    match no layer, and for a rank above a layer's smaller side.
    """

    def __init__(self, base: Base, rank: int, targets: Sequence[str], seed: int, data: Path | None = None) -> None:
        super().__init__()
        self.base, self.data = base, data
        model = _structure(base)
        layers = {f".{name}": layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
        for target in targets:
            found = [layer for name, layer in layers.items() if name.endswith(f".{target}")]
            if not found:
                raise UserError(
                    f"model.targets: {target!r} is no linear layer of {base.network}; the default is to_q, to_k, "
                    "to_v, to_out.0"
                )
            least = min(min(layer.weight.shape) for layer in found)
            if rank > least:
                what = f"is above the smaller side of a layer {target} of {base.network}"
                raise UserError(f"model.rank: {rank} {what}; use {least} at most")
        model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)))
        self._frozen: list[tuple[nn.Module, str, str]] = []  # where each weight of the base goes
        for place, module in model.named_modules():
            for key, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                name = f"{place}.{key}" if place else key
                if "lora_" not in name:
                    self._frozen.append((module, key, name.replace(".base_layer", "")))
                    continue
                name = name.replace(".default", "")
                weight = nn.Parameter(_initial(name, value.shape, rank, seed).to(torch.empty(0).device))
                setattr(module, key, weight)
                self.register_parameter(name.replace(".", "/"), weight)
        self._unregistered = (model,)
        self._computed_in: tuple[torch.device, torch.dtype] | None = None

    def blocks_to_wrap(self) -> list[nn.Module]:
        return [module for module in self._unregistered[0].modules() if type(module).__name__ in BLOCKS]

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        prompt, pooled = self._given(x, labels)
        (model,) = self._unregistered
        if self.base.family == "sd3":
            output: torch.Tensor = model(x, prompt, pooled, c_noise, return_dict=False)[0]
            return output
        sides = [side * self.base.factor for side in x.shape[2:]]
        ids = x.new_tensor([*sides, 0, 0, *sides]).expand(len(x), -1)  # of an image neither resized nor cropped
        conditions = {"text_embeds": pooled, "time_ids": ids}
        output = model(x, c_noise, prompt, added_cond_kwargs=conditions, return_dict=False)[0]
        return output

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # it would trace the reading of files and miss the caches
    def _given(self, x: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """prompt [N,T,D] and pooled [N,P] for x. The base has weights on its device afterwards, in autocast's precision."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        if self._computed_in != (x.device, dtype):
            weights = _weights(self.base.network, x.device, dtype)
            shapes = {(name, getattr(module, key).shape) for module, key, name in self._frozen}
            if wrong := shapes ^ {(name, value.shape) for name, value in weights.items()}:
                name, shape = min(wrong)
                what = f"its weights do not fit its config.json ({name}, {list(shape)})"
                raise UserError(f"{self.base.network}: {what}; download or save the base again")
            for module, key, name in self._frozen:
                setattr(module, key, weights[name])
            self._computed_in = x.device, dtype
        assert self.data is not None
        table = embeddings(self.data)
        rows = torch.full((len(x),), -1) if labels is None else labels.cpu()  # the last row is "no label"
        return table["prompt"][rows].to(x), table["pooled"][rows].to(x)


def lora_weights(weights: dict[str, torch.Tensor], base: Base) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint under the names that diffusers' load_lora_weights takes."""
    named = {name.removeprefix("network.").replace("/", "."): value for name, value in weights.items()}
    return {f"{base.network.name}.{name}": value for name, value in named.items()}


def _structure(base: Base) -> Any:
    """The base's network without weights."""
    config = read_json(base.network, "config.json")
    kind = UNet2DConditionModel if base.family == "sdxl" else SD3Transformer2DModel
    with loading(base.network), torch.device("meta"):
        return kind.from_config(config).requires_grad_(False).eval()  # type: ignore[no-untyped-call]


def _initial(name: str, shape: torch.Size, rank: int, seed: int) -> torch.Tensor:
    if "lora_B" in name:
        return torch.zeros(shape, device="cpu")
    return rng.normal(f"model.lora.{name}", seed, [0], shape)[0] / rank


@functools.lru_cache(maxsize=2)  # float32 to sample in, and bf16 to train in
def _weights(folder: Path, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights of a base's network, by name, shared by all models of this process. Raises UserError unless finite."""
    found: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        found |= load_file(file)
    for name, value in found.items():
        found[name] = nn.Parameter(value.to(device, dtype), requires_grad=False)
        if not found[name].isfinite().all():
            raise UserError(f"{folder}: its weights are not finite ({name}); download or save the base again")
    return found
