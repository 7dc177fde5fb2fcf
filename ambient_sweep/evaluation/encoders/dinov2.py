"""DINOv2 (Oquab et al. 2023), the features that agree best with people on how real images look (Stein et al. 2023)."""

import torch

from ambient_sweep.evaluation.encoders.base import Encoder, NetworkEncoder, imagenet_normalised
from ambient_sweep.evaluation.encoders.weights import Weights, find_weights

SIZE = 224

_SHA256 = {
    "small": "04d27f3400d059fc0cfd7d17dd1909a75bf3ea8fb3eeb48b97cb99e57ee20081",
    "base": "55cbb5d887b336d430e649c277b85a1429e724871f9d02ac16203235886d8c7b",
    "large": "0424a5d1b515278cba3c6640ccbeaacc41de59d3a93df0dd5e494285eea2b355",
}
_BATCH = {"small": 64, "base": 32, "large": 16}


def dinov2_encoder(scale: str, folder: str | None, device: str) -> Encoder:
    """The normalised class token of DINOv2 ViT-S, B or L/14, 384, 768 or 1024 features, of images resized to 224 px.

    Bicubic with antialiasing, ImageNet's mean and deviation; timm resamples the position embedding, made for 518 px.
    Raises UserError where the checked weights are missing.
    """
    import timm

    architecture, name, sha256 = f"vit_{scale}_patch14_dinov2.lvd142m", f"dinov2_{scale}@{SIZE}", _SHA256[scale]
    weights = Weights(
        distance=f"fd_dinov2_{scale}",
        content=f"timm's {architecture}",
        file=f"{architecture}.safetensors",
        url=f"https://huggingface.co/timm/{architecture}/resolve/main/model.safetensors",
        sha256=sha256,
    )
    overlay = {"file": str(find_weights(weights, folder))}
    with torch.random.fork_rng(devices=[]):  # the random initialisation draws from the global generator
        network = timm.create_model(
            architecture, pretrained=True, pretrained_cfg_overlay=overlay, img_size=SIZE, num_classes=0
        )
    network.eval().requires_grad_(False)
    return NetworkEncoder(name, _BATCH[scale], network, SIZE, "bicubic", imagenet_normalised, device)
