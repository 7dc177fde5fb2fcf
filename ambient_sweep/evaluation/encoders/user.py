"""An encoder of the user's own: a network in a file, trusted by its hash alone."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders.base import load_torchscript, missing_package, normalised, resized
from ambient_sweep.storage import sha256

VERSION = 1


class FileEncoder:
    """What the network in evaluation.encoder_file makes of images float32 [N, 3, size, size]: features [N, D].

    A file of TorchScript, or safetensors with timm's name of the architecture; images resized to encoder_size, bicubic
    with antialiasing, then (x / 255 - encoder_mean) / encoder_std; grey is repeated. Raises UserError where the hash is
    another, the file cannot be read, does not take such images or gives no finite features.
    """

    def __init__(self, settings: EvaluationConfig, device: str) -> None:
        if settings.encoder_file is None or settings.encoder_sha256 is None:
            raise UserError("evaluation.encoder_file, encoder_sha256: fd_file needs both, the file and its SHA-256")
        self.path, self.size = Path(settings.encoder_file).expanduser(), settings.encoder_size
        _check_hash(self.path, settings.encoder_sha256)
        self.mean, self.std = settings.encoder_mean, settings.encoder_std
        self.name = f"file:{settings.encoder_sha256[:12]}@{self.size}"
        self.batch = max(1, 32 * 224**2 // self.size**2)
        details = f"{settings.encoder_model}/{self.mean}/{self.std}"
        self.identity = f"{self.name}/{settings.encoder_sha256}/{details}/{VERSION}"
        self.model = _load(self.path, settings.encoder_model, self.size).to(device)
        with torch.inference_mode():
            self(torch.zeros(2, 3, self.size, self.size, dtype=torch.uint8, device=device))

    def __call__(self, images: Tensor) -> Tensor:
        x = normalised(resized(images, self.size, "bicubic"), self.mean, self.std)
        try:
            features = self.model(x)
        except RuntimeError as error:
            raise UserError(
                f"evaluation.encoder_file: {self.path} does not take images [N, 3, {self.size}, {self.size}] "
                f"({_last_line(error)}); check evaluation.encoder_size"
            ) from None
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise UserError(
                f"evaluation.encoder_file: {self.path} gives {found} for {len(images)} images, "
                f"not features [{len(images)}, D]; export the network without its later layers"
            )
        if not features.is_floating_point() or not features.isfinite().all():
            raise UserError(f"evaluation.encoder_file: {self.path} gives values that are no finite real numbers")
        return features.float()


def _check_hash(path: Path, wanted: str) -> None:
    try:
        found = sha256(path)
    except OSError as error:
        raise UserError(f"evaluation.encoder_file: {path}: cannot be read: {error.strerror}") from None
    if found != wanted:
        raise UserError(
            f"evaluation.encoder_sha256: {path} has {found[:12]}..., not {wanted[:12]}...; it is another file than you meant"
        )


def _load(path: Path, architecture: str | None, size: int) -> Any:
    """The network, on the CPU, for inference; read as safetensors where an architecture is given."""
    if architecture is not None:
        return _load_timm(path, architecture, size)
    try:
        return load_torchscript(path)
    except RuntimeError:
        raise UserError(
            f"evaluation.encoder_file: {path} is no TorchScript; export it by torch.jit.trace, or give safetensors "
            "and evaluation.encoder_model"
        ) from None


def _load_timm(path: Path, architecture: str, size: int) -> torch.nn.Module:
    """timm's network without its last layer, with exactly the weights of the file (those of a last layer apart)."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise missing_package("fd_file", error) from None
    if not timm.is_model(architecture):
        raise UserError(f"evaluation.encoder_model: timm {timm.__version__} has no {architecture}")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise UserError(f"evaluation.encoder_file: {path} is no safetensors ({_last_line(error)})") from None
    options: dict[str, Any] = (
        {"img_size": size} if timm.get_pretrained_cfg_value(architecture, "fixed_input_size") else {}
    )
    with torch.random.fork_rng(devices=[]):  # initial weights, which those of the file replace
        model: torch.nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0, **options)
    last = timm.get_pretrained_cfg_value(architecture, "classifier") or ()
    layers = (last,) if isinstance(last, str) else tuple(last)
    try:
        model.load_state_dict({n: t for n, t in tensors.items() if n.rpartition(".")[0] not in layers}, strict=True)
    except RuntimeError as error:
        raise UserError(
            f"evaluation.encoder_model: {path} does not hold the weights of {architecture} at {size} px "
            f"({_last_line(error)})"
        ) from None
    return model.eval().requires_grad_(False)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()[:200]
