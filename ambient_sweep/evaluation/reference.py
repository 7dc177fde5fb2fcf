"""What evaluation needs of the real images: computed once per data and settings, stored, shared by all trials."""

import hashlib
import json
import math
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ambient_sweep.config import Distance, EvaluationConfig
from ambient_sweep.data.images import ImageData
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.classifier import Classifier, empty_classifier, train_classifier
from ambient_sweep.evaluation.encoders import ENCODERS, Encoder, build_encoder, encode
from ambient_sweep.evaluation.frechet import Statistics
from ambient_sweep.evaluation.inception import file_sha256
from ambient_sweep.evaluation.memorization import null_threshold, thumbnails
from ambient_sweep.evaluation.neighbours import nearest

FORMAT = 1  # of the files and of what they hold; raised whenever an encoder or a measure changes its values
SETTINGS_FILE = "reference.json"
TENSORS_FILE = "reference.safetensors"
READ_AT_ONCE = 1024  # images


@dataclass(frozen=True)
class Settings:
    """What a reference was made from and how it is used; plain JSON types."""

    key: str
    data_fingerprint: str
    shape: tuple[int, int, int]  # C, H, W
    distances: tuple[Distance, ...]
    quantile: float
    batch_size: int
    inception_weights: str | None
    classes: int | None  # of the classifier; None without one
    heldout: int  # images behind each distance
    overlap: int


@dataclass
class Reference:
    """Real statistics per distance, thumbnails of the training images, the null of memorization, the classifier."""

    settings: Settings
    statistics: dict[Distance, Statistics]
    train: Tensor  # thumbnails of the training images, float32 [N, C, h, w] in [-1, 1]
    heldout_distances: Tensor  # float64 [M], thumbnails' L2 to the nearest training image
    classifier: Classifier | None
    threshold: float = field(init=False)
    _encoders: dict[tuple[Distance, str], Encoder] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.threshold = null_threshold(self.heldout_distances, self.settings.quantile)

    @property
    def key(self) -> str:
        """A hash of the data and of the settings that determine the values."""
        return self.settings.key

    @property
    def overlap(self) -> int:
        """Held-out images at distance zero from a training image: the same picture on both sides of the split."""
        return self.settings.overlap

    @classmethod
    def build(cls, data: ImageData, config: EvaluationConfig, *, device: str = "cpu") -> "Reference":
        """Encodes the held-out images of `data` and measures them against its training images.

        Raises UserError where there are too few images or no labels for a measure that needs them, or an encoder's
        package or weights are missing.
        """
        if len(data.heldout) < 2 or len(data.train) < 2:
            raise UserError(
                f"data: evaluation needs at least 2 training and 2 held-out images, there are {len(data.train)} and "
                f"{len(data.heldout)}; add images or change data.train_size"
            )
        heldout = torch.cat([to_uint8(images) for images in data.heldout.blocks(READ_AT_ONCE)])
        train = torch.cat([thumbnails(to_uint8(images)) for images in data.train.blocks(READ_AT_ONCE)])
        nulls = nearest(thumbnails(heldout).to(device), train.to(device), 1)[0][:, 0].cpu()
        null_threshold(nulls, config.quantile)  # too few held-out images: say so before the costly part
        classifier = None
        if "fd_classifier" in config.distances:
            classifier = train_classifier(heldout, data.heldout_labels)
        settings = Settings(
            key=reference_key(data, config),
            data_fingerprint=data.fingerprint,
            shape=data.shape,
            distances=config.distances,
            quantile=config.quantile,
            batch_size=config.batch_size,
            inception_weights=config.inception_weights,
            classes=None if classifier is None else classifier.classes,
            heldout=len(heldout),
            overlap=int((nulls == 0).sum()),
        )
        reference = cls(settings, {}, train, nulls, classifier)
        for distance in config.distances:
            reference.statistics[distance] = Statistics.of(reference.encode(distance, heldout, device).cpu())
        return reference

    def encode(self, distance: Distance, images: Tensor, device: str = "cpu") -> Tensor:
        """Features float32 [N, D] of images uint8 [N, C, H, W]; the encoder of `distance` is kept for later calls."""
        if (distance, device) not in self._encoders:
            self._encoders[distance, device] = build_encoder(
                distance, device=device, classifier=self.classifier, weights=self.settings.inception_weights
            )
        return encode(self._encoders[distance, device], images, self.settings.batch_size, device)

    def nearest_train(self, images: Tensor, k: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
        """The k training images nearest to images uint8 [N, C, H, W]: L2 float64 [N, k] and indices int64 [N, k].

        Distances are those of the thumbnails that `mem_*` use.
        """
        return nearest(thumbnails(images).to(device), self.train.to(device), k)

    def save(self, folder: Path) -> None:
        """Writes `folder`, whole or not at all; one that is there is replaced. Raises UserError where it cannot."""
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
        try:
            new, old = temporary / "new", temporary / "old"
            new.mkdir()
            save_file(self._tensors(), new / TENSORS_FILE)
            document = {"format": FORMAT, "tensors_sha256": file_sha256(new / TENSORS_FILE)} | vars(self.settings)
            (new / SETTINGS_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            if folder.exists():
                os.rename(folder, old)
            os.rename(new, folder)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
        finally:
            shutil.rmtree(temporary)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"train": self.train, "heldout_distances": self.heldout_distances}
        for distance, statistics in self.statistics.items():
            tensors[f"{distance}/mean"], tensors[f"{distance}/root"] = statistics.mean, statistics.root
        if self.classifier is not None:
            tensors |= {f"classifier/{name}": value for name, value in self.classifier.state_dict().items()}
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    @classmethod
    def load(cls, folder: Path) -> "Reference":
        """What `save` wrote. Raises UserError, naming the file, where it is missing, damaged or of another version."""
        settings = _read_settings(folder)
        tensors = load_file(folder / TENSORS_FILE)
        statistics = {
            name: Statistics(tensors[f"{name}/mean"], tensors[f"{name}/root"], settings.heldout)
            for name in settings.distances
        }
        classifier = None
        if settings.classes is not None:
            classifier = empty_classifier(settings.shape[0], settings.classes)
            prefix = "classifier/"
            classifier.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
            classifier.eval().requires_grad_(False)
        return cls(settings, statistics, tensors["train"], tensors["heldout_distances"], classifier)


def reference_key(data: ImageData, config: EvaluationConfig) -> str:
    """A hash, 16 hex digits, of all that determines the values of a reference: images, labels, distances, quantile."""
    labels = None if data.heldout_labels is None else data.heldout_labels.tolist()
    parts = [FORMAT, data.fingerprint, labels, sorted(config.distances), config.quantile]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def to_uint8(images: Tensor) -> Tensor:
    """Images float [N, C, H, W] in [-1, 1], clipped and rounded to 8 bits, as files would hold them."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _read_settings(folder: Path) -> Settings:
    """The checked settings in `folder`, whose tensors are those that were written with them."""
    path, tensors = folder / SETTINGS_FILE, folder / TENSORS_FILE
    advice = "remove the folder and let it be made again"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = document.pop("format")
        wanted = document.pop("tensors_sha256")
        found = file_sha256(tensors)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}; {advice}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: damaged; {advice}") from None
    if version != FORMAT:
        raise UserError(f"{path}: has format {version}, this version reads {FORMAT}; {advice}")
    if found != wanted:
        raise UserError(f"{tensors}: damaged (its sha256 is not the one in {SETTINGS_FILE}); {advice}")
    try:
        document["shape"], document["distances"] = tuple(document["shape"]), tuple(document["distances"])
        settings = Settings(**document)
    except (KeyError, TypeError):
        raise UserError(f"{path}: damaged; {advice}") from None
    if not set(settings.distances) <= set(ENCODERS) or not math.isfinite(settings.quantile):
        raise UserError(f"{path}: damaged; {advice}")
    return settings
