"""Tiny random bases of both families, made from configs on the spot and saved as diffusers saves them; no hub."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # before diffusers is imported

ONE_PROCESS = pytest.mark.xdist_group("latent")  # importing diffusers takes seconds, once per process
SIDE = 16  # latents that both denoisers take
WIDTH, POOLED = 16, 16  # of the text encoders' states and of their projection


def tokenizer() -> Any:
    """A CLIP tokenizer that knows single bytes alone: every caption works, and long words fill its 77 tokens."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    bytes_ = list(bytes_to_unicode().values())
    words = [*bytes_, *(f"{each}</w>" for each in bytes_), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({word: place for place, word in enumerate(words)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=77)


def _text_config() -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=514, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=POOLED, bos_token_id=512, eos_token_id=513, pad_token_id=513,
    )  # fmt: skip


def _vae(channels: int, **scales: float) -> Any:
    from diffusers import AutoencoderKL

    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(
        block_out_channels=(16, 16), norm_num_groups=8, latent_channels=channels, sample_size=32, **kinds, **scales
    )


def sdxl(folder: Path, *, seed: int = 0, unet: dict[str, Any] | None = None, **scheduler: Any) -> Path:
    """A Stable Diffusion XL of 1.3 M weights, latents of 4 channels at half the side in pixels; returns `folder`."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    words = tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet2DConditionModel(
            sample_size=SIDE, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2), attention_head_dim=(2, 4), cross_attention_dim=2 * WIDTH,
            use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + POOLED, **(unet or {}),
        )  # fmt: skip
        StableDiffusionXLPipeline(
            vae=_vae(4, scaling_factor=0.13025), text_encoder=CLIPTextModel(_text_config()),
            text_encoder_2=CLIPTextModelWithProjection(_text_config()), tokenizer=words, tokenizer_2=words, unet=network,
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading",
                steps_offset=1, **scheduler,
            ),
        ).save_pretrained(folder)  # fmt: skip
    return folder


def sd3(folder: Path, *, seed: int = 0, shift: float = 3.0) -> Path:
    """A Stable Diffusion 3 of 78 k weights without its third text encoder, latents of 16 channels; returns `folder`."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    words = tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SD3Transformer2DModel(
            sample_size=SIDE, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=8,
            num_attention_heads=4, joint_attention_dim=2 * WIDTH, caption_projection_dim=32,
            pooled_projection_dim=2 * POOLED, pos_embed_max_size=SIDE,
        )  # fmt: skip
        StableDiffusion3Pipeline(
            vae=_vae(16, scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=CLIPTextModelWithProjection(_text_config()),
            text_encoder_2=CLIPTextModelWithProjection(_text_config()), text_encoder_3=None, tokenizer=words,
            tokenizer_2=words, tokenizer_3=None, transformer=network,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        ).save_pretrained(folder)  # fmt: skip
    return folder


def pipeline(folder: Path) -> Any:
    """diffusers' own pipeline of a tiny base."""
    from diffusers import DiffusionPipeline

    absent = {} if "XL" in (folder / "model_index.json").read_text() else {"text_encoder_3": None, "tokenizer_3": None}
    loaded = DiffusionPipeline.from_pretrained(folder, **absent)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@torch.no_grad()
def predicted(
    pipeline: Any, x: torch.Tensor, t: torch.Tensor, table: dict[str, torch.Tensor], rows: torch.Tensor
) -> Any:
    """What the network in diffusers' own pipeline predicts, given text embeddings."""
    prompt, pooled = table["prompt"][rows], table["pooled"][rows]
    if hasattr(pipeline, "transformer"):
        return pipeline.transformer(x, prompt, pooled, t).sample
    ids = torch.tensor([[2.0 * SIDE, 2 * SIDE, 0, 0, 2 * SIDE, 2 * SIDE]]).expand(len(x), -1)
    return pipeline.unet(x, t, prompt, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids}).sample
