"""Memory and time of LoRA steps on a UNet of SDXL's size with random weights: seconds, and no download."""

import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import small_runs
import throughput
import torch
from gpu_parts import Row, Setting
from safetensors.torch import save_file

Size = tuple[int, str, bool]  # batch, objective, activation checkpointing

SDXL = {  # unet/config.json of stable-diffusion-xl-base-1.0, as far as it is not diffusers' default; 2,567 M weights
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048, "in_channels": 4, "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"], "layers_per_block": 2,
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "sample_size": 128,
    "projection_class_embeddings_input_dim": 2816, "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
}  # fmt: skip


def random_base(s: Setting) -> Path:
    """A base with SDXL's config; this process draws its weights on the device, in the precision asked for."""
    import tiny_bases

    from ambient_sweep.latent.base import open_base
    from ambient_sweep.models import lora

    folder = tiny_bases.sdxl(s.folder / "base")
    if not s.tiny:
        (folder / "unet" / "config.json").write_text(json.dumps(SDXL))

    @functools.cache
    def drawn(network: Path, device: torch.device, dtype: torch.dtype) -> dict[str, torch.nn.Parameter]:
        shapes = lora._structure(open_base(network.parent)).state_dict()
        empty = {name: torch.empty(each.shape, device=device, dtype=dtype) for name, each in shapes.items()}
        return {name: torch.nn.Parameter(each.normal_(std=0.02), requires_grad=False) for name, each in empty.items()}

    lora._weights = drawn
    return folder


def true_size(s: Setting, sizes: tuple[Size, ...]) -> Iterator[Row]:
    from small_latents import CAPTIONS, latents, lora_config

    side, tokens, width, pooled = (16, 7, 32, 16) if s.tiny else (128, 77, 2048, 1280)
    observed = replace(latents("sdxl"), images=torch.randn(8, 4, side, side))
    table = {"prompt": torch.randn(CAPTIONS + 1, tokens, width), "pooled": torch.randn(CAPTIONS + 1, pooled)}
    warmup, counted = (1, 2) if s.tiny else (4, 20)
    base = random_base(s)
    save_file(table, s.folder / "embeddings.safetensors")
    for batch, kind, checkpointing in sizes:
        config = lora_config(base, s.folder, {
            "objective.kind": kind, "consistency": {"start": 0.0, "batch_share": 0.15}, "optimizer.lr": 1e-4,
            "training": {"images": batch * (warmup + counted), "batch_size": batch, "records": 1},
            "compute": {"precision": "bf16", "activation_checkpointing": checkpointing},
        })  # fmt: skip
        state = small_runs.new_state(config, observed, device=s.device)
        speed, memory = throughput.timed(config, observed, state, warmup)
        yield memory, f"{batch / speed:.3f}"
