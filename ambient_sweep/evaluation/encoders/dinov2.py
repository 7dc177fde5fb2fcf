"""DINOv2 (Oquab et al. 2023), the features that agree best with people on how real images look (Stein et al. 2023)."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders.base import IMAGENET_MEAN, IMAGENET_STD, missing_package, normalised, resized
from ambient_sweep.evaluation.encoders.weights import Weights, find_weights

SIZE = 224
VERSION = 1

_SHA256 = {
    "small": "04d27f3400d059fc0cfd7d17dd1909a75bf3ea8fb3eeb48b97cb99e57ee20081",
    "base": "55cbb5d887b336d430e649c277b85a1429e724871f9d02ac16203235886d8c7b",
    "large": "0424a5d1b515278cba3c6640ccbeaacc41de59d3a93df0dd5e494285eea2b355",
    "giant": None,
}
_BATCH = {"small": 64, "base": 32, "large": 16, "giant": 8}


def architecture(scale: str) -> str:
    """timm's name of DINOv2 `scale`: small, base, large or giant."""
    return f"vit_{scale}_patch14_dinov2.lvd142m"


def dinov2_weights(scale: str) -> Weights:
    """timm's file of its weights."""
    name = architecture(scale)
    return Weights(
        distance=f"fd_dinov2_{scale}",
        content=f"timm's {name}",
        file=f"{name}.safetensors",
        url=f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors",
        sha256=_SHA256[scale],
    )


class DinoV2Encoder:
    """The normalised class token of DINOv2 ViT-S, B, L or g/14: 384, 768, 1024 or 1536 features.

    Images resized to 224 px, bicubic with antialiasing, ImageNet's mean and deviation; grey is repeated. Raises UserError
    where timm or the checked weights are missing.
    """

    def __init__(self, scale: str, folder: str | None, device: str) -> None:
        path, sha256 = find_weights(dinov2_weights(scale), folder)
        self.name, self.batch = f"dinov2_{scale}@{SIZE}", _BATCH[scale]
        self.identity = f"{self.name}/{sha256}/{VERSION}"
        self.model = _load_dinov2(scale, path).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        features: Tensor = self.model(normalised(resized(images, SIZE, "bicubic"), IMAGENET_MEAN, IMAGENET_STD))
        return features


def _load_dinov2(scale: str, path: Path) -> nn.Module:
    """timm's network for 224 px; the position embedding, made for 518 px, is resampled as timm does."""
    try:
        import timm
        from timm.layers.pos_embed import resample_abs_pos_embed
    except ModuleNotFoundError as error:
        raise missing_package(f"fd_dinov2_{scale}", error) from None
    name = architecture(scale)
    with torch.device("meta"):  # no random initialisation: it would be overwritten, and draws from the global generator
        model: Any = timm.create_model(name, pretrained=False, img_size=SIZE, num_classes=0)
    try:
        tensors = load_file(path)
        tensors["pos_embed"] = resample_abs_pos_embed(
            tensors["pos_embed"], model.patch_embed.grid_size, num_prefix_tokens=model.num_prefix_tokens
        )
        model.load_state_dict(tensors, strict=True, assign=True)
    except (SafetensorError, KeyError, RuntimeError):
        raise UserError(f"{path}: does not hold the weights of {name} as timm {timm.__version__} names them") from None
    network: nn.Module = model.eval().requires_grad_(False)
    return network
