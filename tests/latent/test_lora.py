"""LoRA on a frozen base against diffusers itself: what is trained, shared, resumed and exported."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_latents import CAPTIONS, SHAPES, latents, lora_config
from tiny_bases import ONE_PROCESS, POOLED, SIDE, WIDTH

from ambient_sweep.errors import UserError
from ambient_sweep.latent.base import open_base
from ambient_sweep.models import build_model, count_parameters, parameters
from ambient_sweep.training.loop import train
from ambient_sweep.training.objective import step_cost
from ambient_sweep.training.state import TrainState, load_model, read_state, save_model

pytestmark = ONE_PROCESS
