"""Made-up latents with captions of random embeddings, and configs that train LoRA on them."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_bases import POOLED, SIDE, WIDTH

from ambient_sweep.config import Config, build_config
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.training.state import TrainState

CAPTIONS = 3
SHAPES = {"sdxl": (4, SIDE, SIDE), "sd3": (16, SIDE, SIDE)}
POOLS = {"sdxl": POOLED, "sd3": 2 * POOLED}


def latents(family: str, count: int = 8, sigma: float = 0.7) -> ObservedImages:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(count, *SHAPES[family], generator=generator)
    labels = torch.arange(count) % CAPTIONS
    return ObservedImages(y, torch.full((count,), sigma), labels=labels, classes=CAPTIONS)


def embeddings(folder: Path, family: str) -> Path:
    """A store's embeddings alone; the last row is "no label". Returns `folder`."""
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randn(CAPTIONS + 1, 7, 2 * WIDTH, generator=generator)
    pooled = torch.randn(CAPTIONS + 1, POOLS[family], generator=generator)
    prompt[-1], pooled[-1] = 0, 0
    folder.mkdir(exist_ok=True)
    save_file({"prompt": prompt, "pooled": pooled}, folder / "embeddings.safetensors")
    return folder


def lora_config(base: Path, data: Path, *changes: dict[str, object]) -> Config:
    small = {
        "model": {"kind": "lora", "base": str(base), "conditional": True},
        "data": {"source": "store", "path": str(data)},
        "noise.law": "timesteps",
        "observed.sigma": 0.7,
        "training": {"images": 8, "batch_size": 2, "records": 2},
        "consistency.batch_share": 0.5,
        "evaluation.lengths": [1.0],
        "optimizer.lr": 1e-2,
    }
    return build_config(small, *changes)


def new_state(config: Config, observed: ObservedImages) -> TrainState:
    channels, height, width = observed.images.shape[1:]
    return TrainState.create(config, (channels, height, width), classes=CAPTIONS)
