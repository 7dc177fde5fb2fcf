"""All that resuming needs, and its files: safetensors and JSON, never pickle."""

import copy
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ambient_sweep.config import Config, build_config
from ambient_sweep.diffusion.denoiser import Denoiser
from ambient_sweep.errors import UserError
from ambient_sweep.models import Shape, build_model

FORMAT = 1


@dataclass
class TrainState:
    """The live weights, their average, the optimizer, and the training position in images.

    There is no generator state: all randomness is a function of the seed and the position.
    """

    denoiser: Denoiser
    average: Denoiser
    optimizer: torch.optim.AdamW
    images: int = 0

    @classmethod
    def create(cls, config: Config, shape: Shape, device: str = "cpu") -> "TrainState":
        denoiser = build_model(config.model, shape, config.seed).to(device)
        average = copy.deepcopy(denoiser).requires_grad_(False)
        o = config.optimizer
        optimizer = torch.optim.AdamW(
            denoiser.parameters(), lr=o.lr, betas=(0.9, o.beta2), weight_decay=o.weight_decay, fused=True
        )
        return cls(denoiser, average, optimizer)

    def save(self, folder: Path, config: Config) -> None:
        """Writes state.safetensors and state.json to `folder`, all or nothing."""
        tensors = {f"model.{k}": v for k, v in self.denoiser.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for name, parameter in self.denoiser.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        meta = {"format": FORMAT, "images": self.images, "config": config.model_dump(mode="json")}
        write_tensors(folder, "state", tensors, meta)

    @classmethod
    def load(cls, folder: Path, config: Config, shape: Shape, device: str = "cpu") -> "TrainState":
        """The state saved in `folder`. Raises UserError if it is damaged or of another config."""
        tensors, meta = read_tensors(folder, "state", device, needs=("images", "config"))
        if meta["config"] != config.model_dump(mode="json"):
            raise UserError(f"{folder}: was saved by another config; use that config or another folder")
        state = cls.create(config, shape, device)
        state.denoiser.load_state_dict(_part(tensors, "model."))
        state.average.load_state_dict(_part(tensors, "average."))
        for name, parameter in state.denoiser.named_parameters():
            slots = {key: tensors.get(f"optimizer.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if all(value is not None for value in slots.values()):
                state.optimizer.state[parameter] = slots
        state.images = meta["images"]
        return state


def save_model(
    folder: Path, denoiser: nn.Module, config: Config, images: int, shape: Shape, extra: dict[str, Any]
) -> None:
    """Writes a model to sample from and to evaluate: model.safetensors and checkpoint.json, all or nothing."""
    meta = {"format": FORMAT, "images": images, "shape": list(shape), "config": config.model_dump(mode="json"), **extra}
    write_tensors(folder, "model", dict(denoiser.state_dict()), meta, meta_name="checkpoint")


def load_model(folder: Path, device: str = "cpu") -> tuple[Denoiser, Config, dict[str, Any]]:
    """The denoiser of a checkpoint folder, its config and its notes. Raises UserError if it is missing or damaged."""
    needs = ("images", "shape", "config", "data_fingerprint")
    tensors, meta = read_tensors(folder, "model", device, meta_name="checkpoint", needs=needs)
    config = build_config(meta["config"], where=str(folder / "checkpoint.json"))
    channels, height, width = meta["shape"]
    denoiser = build_model(config.model, (channels, height, width), config.seed).to(device)
    try:
        denoiser.load_state_dict(tensors)
    except RuntimeError:
        raise UserError(f"{folder}: the weights do not fit the config in checkpoint.json") from None
    return denoiser.requires_grad_(False).eval(), config, meta


def write_tensors(
    folder: Path, name: str, tensors: dict[str, torch.Tensor], meta: dict[str, Any], meta_name: str | None = None
) -> None:
    """A folder of NAME.safetensors and a JSON that holds its sha256, written aside and renamed into place."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    file = aside / f"{name}.safetensors"
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (aside / f"{meta_name or name}.json").write_text(json.dumps({**meta, "sha256": digest}, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)


def read_tensors(
    folder: Path, name: str, device: str, meta_name: str | None = None, needs: tuple[str, ...] = ()
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `write_tensors` wrote. Raises UserError that names a missing, damaged or newer file."""
    file, meta_file = folder / f"{name}.safetensors", folder / f"{meta_name or name}.json"
    try:
        meta = json.loads(meta_file.read_text(encoding="utf-8"))
        content = file.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a readable {meta_name or name} ({error})") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise UserError(f"{meta_file}: format {meta.get('format') if isinstance(meta, dict) else None} is not {FORMAT}")
    for key in needs:
        if key not in meta:
            raise UserError(f"{meta_file}: damaged ({key} is missing)")
    if hashlib.sha256(content).hexdigest() != meta.get("sha256"):
        raise UserError(f"{file}: damaged (its sha256 is not the one in {meta_file.name})")
    try:
        return load_file(file, device=device), meta
    except SafetensorError as error:
        raise UserError(f"{file}: damaged ({error})") from None


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
