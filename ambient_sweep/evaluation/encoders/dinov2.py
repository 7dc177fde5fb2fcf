"""DINOv2 (Oquab et al. 2023), the features that agree best with people on how real images look (Stein et al. 2023)."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders.base import Encoder, NetworkEncoder, imagenet_normalised, missing_package
from ambient_sweep.evaluation.encoders.weights import Weights, find_weights

SIZE = 224
VERSION = 1

_SHA256 = {
    "small": "04d27f3400d059fc0cfd7d17dd1909a75bf3ea8fb3eeb48b97cb99e57ee20081",
    "base": "55cbb5d887b336d430e649c277b85a1429e724871f9d02ac16203235886d8c7b",
    "large": "0424a5d1b515278cba3c6640ccbeaacc41de59d3a93df0dd5e494285eea2b355",
}
_BATCH = {"small": 64, "base": 32, "large": 16}


def dinov2_encoder(scale: str, folder: str | None, device: str) -> Encoder:
    """The normalised class token of DINOv2 ViT-S, B or L/14, 384, 768 or 1024 features, of images resized to 224 px.

    Bicubic with antialiasing, ImageNet's mean and deviation. Raises UserError where timm or the checked weights are missing.
    """
    architecture, name, sha256 = f"vit_{scale}_patch14_dinov2.lvd142m", f"dinov2_{scale}@{SIZE}", _SHA256[scale]
    weights = Weights(
        distance=f"fd_dinov2_{scale}",
        content=f"timm's {architecture}",
        file=f"{architecture}.safetensors",
        url=f"https://huggingface.co/timm/{architecture}/resolve/main/model.safetensors",
        sha256=sha256,
    )
    network = _load(scale, architecture, find_weights(weights, folder))
    identity = f"{name}/{sha256}/{VERSION}"
    return NetworkEncoder(name, identity, _BATCH[scale], network, SIZE, "bicubic", imagenet_normalised, device)


def _load(scale: str, architecture: str, path: Path) -> nn.Module:
    """timm's network for 224 px; the position embedding, made for 518 px, is resampled as timm does."""
    try:
        import timm
        from timm.layers.pos_embed import resample_abs_pos_embed
    except ModuleNotFoundError as error:
        raise missing_package(f"fd_dinov2_{scale}", error) from None
    with torch.device("meta"):  # no random initialisation: it would be overwritten, and draws from the global generator
        model: Any = timm.create_model(architecture, pretrained=False, img_size=SIZE, num_classes=0)
    try:
        tensors = load_file(path)
        tensors["pos_embed"] = resample_abs_pos_embed(
            tensors["pos_embed"], model.patch_embed.grid_size, num_prefix_tokens=model.num_prefix_tokens
        )
        model.load_state_dict(tensors, strict=True, assign=True)
    except (SafetensorError, KeyError, RuntimeError):
        raise UserError(
            f"{path}: does not hold the weights of {architecture} as timm {timm.__version__} names them"
        ) from None
    network: nn.Module = model.eval().requires_grad_(False)
    return network
