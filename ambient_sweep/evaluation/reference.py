"""What evaluation needs of the real images: computed once per data and settings, stored, shared by all trials."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ambient_sweep import rng
from ambient_sweep.config import Distance, EvaluationConfig
from ambient_sweep.data.dataset import ImageData
from ambient_sweep.data.evaluation_set import unseen
from ambient_sweep.data.pixels import Pixels, to_uint8
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.cache import Mapped
from ambient_sweep.evaluation.encoders import (
    Classifier,
    Encoder,
    build_encoder,
    empty_classifier,
    encode,
    train_classifier,
)
from ambient_sweep.evaluation.fidelity import Moments, Statistics
from ambient_sweep.evaluation.memorization import (
    LOCAL,
    local_distances,
    nearest_similarity,
    normalised,
    null_threshold,
    thumbnails,
)
from ambient_sweep.evaluation.neighbours import Targets, nearest, nearest_with_flips
from ambient_sweep.storage import new_folder, sha256

FORMAT = 2  # of the files and of what they hold; raised whenever an encoder or a measure changes its values
SETTINGS_FILE = "reference.json"
TENSORS_FILE = "reference.safetensors"
TRAIN_FILE, SIMILARITY_FILE = "train.npy", "similarity.npy"
READ_AT_ONCE = 1024  # images
MOST_FEATURES = 10_000  # of held-out images, that the measures beside the distance are taken against


@dataclass(frozen=True)
class Settings:
    """What a reference was made from and how it is used."""

    key: str
    data_fingerprint: str
    shape: tuple[int, int, int]  # C, H, W
    evaluation: EvaluationConfig
    classes: int | None  # of the classifier; None without one
    heldout: int  # images behind each distance
    overlap: int

    @property
    def distances(self) -> tuple[Distance, ...]:
        return self.evaluation.distances

    @property
    def quantile(self) -> float:
        return self.evaluation.quantile


@dataclass
class Reference:
    """Real statistics per distance, what the memorization measures compare with, the classifier."""

    settings: Settings
    statistics: dict[Distance, Statistics]
    features: Tensor  # of held-out images by the encoder of `fidelity`, float32 [M, D], M <= MOST_FEATURES
    train: Targets  # thumbnails of the training images, float32 [N, C, h, w] in [-1, 1]
    heldout_distances: Tensor  # float64 [M], thumbnails' L2 to the nearest training image
    heldout_local: Tensor  # the same in units of the local scale
    heldout_flips: Tensor  # the same, where a mirrored training image counts as that image
    classifier: Classifier | None
    similarity: Targets | None = None  # features of the training images, of length 1, float32 [N, D]
    heldout_similarities: Tensor | None = None  # float64 [M], cosine to the most similar training image
    threshold: float = field(init=False)
    threshold_local: float = field(init=False)
    threshold_flips: float = field(init=False)
    _encoders: dict[tuple[Distance, str], Encoder] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.threshold = null_threshold(self.heldout_distances, self.settings.quantile)
        self.threshold_local = null_threshold(self.heldout_local, self.settings.quantile)
        self.threshold_flips = null_threshold(self.heldout_flips, self.settings.quantile)

    @property
    def key(self) -> str:
        """A hash of the data and of the settings that determine the values."""
        return self.settings.key

    @property
    def overlap(self) -> int:
        """Held-out images that are training images too, and were left out."""
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
        key = reference_key(data, config)
        places = unseen(data.train, data.heldout)
        overlap = len(data.heldout) - len(places)
        if overlap:
            labels = None if data.heldout_labels is None else data.heldout_labels[torch.from_numpy(places)]
            data = dataclasses.replace(data, heldout=data.heldout.subset(places), heldout_labels=labels)
        if len(data.heldout) < 2:
            raise UserError(
                f"data: {overlap} held-out images are training images, {len(places)} are not; hold out others"
            )
        for names, needed in ((("density", "coverage"), 6), (("precision", "recall"), 4)):
            if {*names} & {*config.extras} and len(data.heldout) < needed:
                raise UserError(
                    f"evaluation.extras: {' and '.join(names)} need at least {needed} held-out images, there are "
                    f"{len(data.heldout)}; hold out more, or leave them out of evaluation.extras"
                )
        train = torch.cat([thumbnails(to_uint8(images)) for images in data.train.blocks(READ_AT_ONCE)])
        heldout = torch.cat([thumbnails(to_uint8(images)) for images in data.heldout.blocks(READ_AT_ONCE)])
        found = nearest(heldout, train, min(LOCAL + 1, len(train)), device=device)[0].cpu()
        nulls, local = found[:, 0], local_distances(found)
        flips = nearest_with_flips(heldout, train, 1, device=device)[0][:, 0].cpu()
        null_threshold(nulls, config.quantile)  # too few held-out images: say so before the costly part
        classifier = None
        if "fd_classifier" in (*config.distances, config.similarity):
            images = torch.cat([to_uint8(block) for block in data.heldout.blocks(READ_AT_ONCE)])
            classifier = train_classifier(images, data.heldout_labels)
        settings = Settings(
            key=key,
            data_fingerprint=data.fingerprint,
            shape=data.shape,
            evaluation=config,
            classes=None if classifier is None else classifier.classes,
            heldout=len(heldout),
            overlap=overlap,
        )
        reference = cls(settings, {}, torch.empty(0), train, nulls, local, flips, classifier)
        for distance in config.distances:
            moments, kept = reference._encode_heldout(distance, data.heldout, device)
            reference.statistics[distance] = moments.to_statistics()
            if distance == config.fidelity:
                reference.features = kept
        if config.similarity is not None:
            features = reference._encode_all(config.similarity, data.train, device)
            similarity = normalised(features)
            queries = reference._encode_all(config.similarity, data.heldout, device)
            reference.similarity = similarity
            reference.heldout_similarities = nearest_similarity(queries, similarity, device=device).cpu()
        return reference

    def encoder(self, distance: Distance, device: str = "cpu") -> Encoder:
        """The encoder of `distance`, kept for later calls."""
        if (distance, device) not in self._encoders:
            self._encoders[distance, device] = build_encoder(
                distance, device=device, classifier=self.classifier, settings=self.settings.evaluation
            )
        return self._encoders[distance, device]

    def encode(self, distance: Distance, images: Tensor, device: str = "cpu") -> Tensor:
        """Features float32 [N, D] of images uint8 [N, C, H, W]."""
        return encode(self.encoder(distance, device), images, self.settings.evaluation.batch_size, device)

    def nearest_train(self, images: Tensor, k: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
        """The k training images nearest to images uint8 [N, C, H, W]: L2 float64 [N, k] and indices int64 [N, k].

        Distances are those of the thumbnails that `mem_*` use.
        """
        return nearest(thumbnails(images), self.train, k, device=device)

    def _encode_heldout(self, distance: Distance, images: Pixels, device: str) -> tuple[Moments, Tensor]:
        """The moments of all images, and the features of at most MOST_FEATURES of them, drawn by a key."""
        moments, kept = Moments(), []
        wanted = np.zeros(len(images), dtype=bool)
        wanted[rng.permutation("evaluation.features", 0, 0, len(images))[:MOST_FEATURES]] = True
        start = 0
        for block in images.blocks(READ_AT_ONCE):
            features = self.encode(distance, to_uint8(block), device).cpu()
            moments.update(features)
            kept.append(features[torch.from_numpy(wanted[start : start + len(block)])])
            start += len(block)
        return moments, torch.cat(kept)

    def _encode_all(self, distance: Distance, images: Pixels, device: str) -> Tensor:
        return torch.cat(
            [self.encode(distance, to_uint8(block), device).cpu() for block in images.blocks(READ_AT_ONCE)]
        )

    def save(self, folder: Path) -> None:
        """Writes `folder`, whole or not at all; one that is there is replaced. Raises UserError where it cannot."""
        try:
            with new_folder(folder) as new:
                save_file(self._tensors(), new / TENSORS_FILE)
                np.save(new / TRAIN_FILE, _rows(self.train))
                if self.similarity is not None:
                    np.save(new / SIMILARITY_FILE, _rows(self.similarity))
                hashes = {path.name: sha256(path) for path in sorted(new.iterdir())}
                settings = vars(self.settings) | {"evaluation": self.settings.evaluation.model_dump(mode="json")}
                document = {"format": FORMAT, "sha256": hashes} | settings
                (new / SETTINGS_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror}") from None

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {
            "features": self.features,
            "heldout_distances": self.heldout_distances,
            "heldout_local": self.heldout_local,
            "heldout_flips": self.heldout_flips,
        }
        for distance, statistics in self.statistics.items():
            tensors[f"{distance}/mean"], tensors[f"{distance}/root"] = statistics.mean, statistics.root
        if self.classifier is not None:
            tensors |= {f"classifier/{name}": value for name, value in self.classifier.state_dict().items()}
        if self.heldout_similarities is not None:
            tensors["heldout_similarities"] = self.heldout_similarities
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    @classmethod
    def load(cls, folder: Path) -> "Reference":
        """What `save` wrote; training images' thumbnails and features stay on the disk until they are needed.

        Raises UserError, naming the file, where it is missing, damaged or of another version.
        """
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
        return cls(
            settings,
            statistics,
            tensors["features"],
            _mapped(folder / TRAIN_FILE),
            tensors["heldout_distances"],
            tensors["heldout_local"],
            tensors["heldout_flips"],
            classifier,
            None if settings.evaluation.similarity is None else _mapped(folder / SIMILARITY_FILE),
            tensors.get("heldout_similarities"),
        )


def reference_key(data: ImageData, config: EvaluationConfig) -> str:
    """A hash, 16 hex digits, of all that determines the values of a reference: images, labels, encoders, quantile."""
    labels = None if data.heldout_labels is None else data.heldout_labels.tolist()
    encoders: list[Any] = [sorted(config.distances), config.fidelity, config.similarity]
    if "fd_file" in (*config.distances, config.similarity):
        own = (config.encoder_sha256, config.encoder_model, config.encoder_size)
        encoders.append([*own, *config.encoder_mean, *config.encoder_std])
    parts = [FORMAT, data.fingerprint, labels, encoders, config.quantile]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _rows(targets: Targets) -> NDArray[np.float32]:
    return targets[0 : len(targets)].cpu().numpy()


def _mapped(path: Path) -> Mapped:
    return Mapped(np.load(path, mmap_mode="r", allow_pickle=False))


def _read_settings(folder: Path) -> Settings:
    """The checked settings in `folder`, whose files are those that were written with them."""
    path = folder / SETTINGS_FILE
    advice = "remove the folder and let it be made again"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, hashes = document.pop("format"), document.pop("sha256")
        found = {name: sha256(folder / name) for name in (TENSORS_FILE, *sorted({*hashes} - {TENSORS_FILE}))}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}; {advice}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: damaged; {advice}") from None
    if version != FORMAT:
        raise UserError(f"{path}: has format {version}, this version reads {FORMAT}; {advice}")
    for name, actual in found.items():
        if actual != hashes[name]:
            raise UserError(f"{folder / name}: damaged (its sha256 is not the one in {SETTINGS_FILE}); {advice}")
    try:
        document["shape"] = tuple(document["shape"])
        document["evaluation"] = EvaluationConfig.model_validate(document["evaluation"])
        settings = Settings(**document)
    except (KeyError, TypeError, ValidationError):
        raise UserError(f"{path}: damaged; {advice}") from None
    return settings
