"""Made-up images, and networks in place of the published ones."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from ambient_sweep.config import Distance, EvaluationConfig
from ambient_sweep.evaluation.encoders import Encoder, Encoders


def noise(n: int, channels: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=generator)


def built(distance: Distance, **settings: object) -> Encoder:
    return Encoders(EvaluationConfig(**settings)).get(distance, "cpu")


def encode(encoder: Encoder, images: Tensor, batch_size: int) -> Tensor:
    """Features by an evaluation whose encoder is this one."""
    encoders = Encoders(EvaluationConfig(batch_size=batch_size))
    encoders._built["fd_pixels", "cpu"] = encoder
    return encoders.encode("fd_pixels", [images], len(images), "cpu")


def scripted(network: nn.Module, path: Path) -> str:
    """Writes the network as TorchScript and gives the file's SHA-256."""
    torch.jit.script(network.eval()).save(str(path))
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def imagenet(x: Tensor) -> Tensor:
    """RGB in [0, 1] less ImageNet's mean, over its deviation."""
    mean, std = (torch.tensor(each)[:, None, None] for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return (x - mean) / std
