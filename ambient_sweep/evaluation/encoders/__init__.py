"""What turns images into features, one class per encoder, each with its own resize and normalisation.

Every encoder: images uint8 [N, C, H, W] (C is 1 or 3) -> features float32 [N, D] on its device.
"""

from ambient_sweep.config import Distance, EvaluationConfig
from ambient_sweep.evaluation.encoders.base import Encoder, encode
from ambient_sweep.evaluation.encoders.classifier import (
    Classifier,
    ClassifierEncoder,
    empty_classifier,
    train_classifier,
)
from ambient_sweep.evaluation.encoders.dinov2 import DinoV2Encoder
from ambient_sweep.evaluation.encoders.inception import InceptionEncoder
from ambient_sweep.evaluation.encoders.lite0 import Lite0Encoder
from ambient_sweep.evaluation.encoders.pixels import PixelEncoder
from ambient_sweep.evaluation.encoders.sscd import SscdEncoder
from ambient_sweep.evaluation.encoders.user import FileEncoder
from ambient_sweep.evaluation.encoders.weights import cache_folder

__all__ = [
    "ENCODERS",
    "Classifier",
    "Encoder",
    "build_encoder",
    "cache_folder",
    "empty_classifier",
    "encode",
    "train_classifier",
]

ENCODERS: dict[Distance, str] = {
    "fd_classifier": "classifier",
    "fd_lite0@32": "lite0@32",
    "fd_lite0@64": "lite0@64",
    "fd_lite0@224": "lite0@224",
    "fd_pixels": "pixels",
    "fid": "inception",
    "fd_dinov2_small": "dinov2_small@224",
    "fd_dinov2_base": "dinov2_base@224",
    "fd_dinov2_large": "dinov2_large@224",
    "fd_dinov2_giant": "dinov2_giant@224",
    "fd_sscd": "sscd@288",
    "fd_file": "file",  # its full name, with hash and size, is the encoder's own
}


def build_encoder(
    distance: Distance,
    *,
    device: str = "cpu",
    classifier: Classifier | None = None,
    settings: EvaluationConfig | None = None,
) -> Encoder:
    """The encoder of a distance; `classifier` for fd_classifier, `settings` say where weights lie.

    Raises UserError where what the encoder needs is not there: never another encoder in its place.
    """
    settings = settings or EvaluationConfig()
    folder = settings.weights_folder
    kind, _, size = ENCODERS[distance].partition("@")
    if kind == "pixels":
        return PixelEncoder()
    if kind == "classifier":
        if classifier is None:
            raise ValueError("fd_classifier: no classifier given")
        return ClassifierEncoder(classifier, device)
    if kind == "lite0":
        return Lite0Encoder(int(size), device)
    if kind == "inception":
        return InceptionEncoder(settings.inception_weights, folder, device)
    if kind == "sscd":
        return SscdEncoder(folder, device)
    if kind == "file":
        return FileEncoder(settings, device)
    return DinoV2Encoder(kind.removeprefix("dinov2_"), folder, device)
