"""What an evaluation needs of the real images: computed once, used for every generated set, in a folder for all trials."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ambient_sweep import rng
from ambient_sweep.config import Distance, EvaluationConfig
from ambient_sweep.data.dataset import ImageData
from ambient_sweep.data.evaluation_set import ImageSet, check_alike, unseen
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import Classifier, Encoders, classes_of, empty_classifier, train_classifier
from ambient_sweep.evaluation.fidelity.frechet import Statistics, statistics
from ambient_sweep.evaluation.memorization.copies import thumbnails
from ambient_sweep.evaluation.memorization.measures import Nearness, memorization
from ambient_sweep.evaluation.memorization.similarity import nearest_similarity, normalised
from ambient_sweep.evaluation.neighbours import nearest
from ambient_sweep.evaluation.required_images import check_counts
from ambient_sweep.storage import digest
from ambient_sweep.training.files import read_tensors, write_tensors

FORMAT: Final = 4  # raised whenever the files or the values of an encoder or a measure change
MOST_FEATURES = 10_000  # of held-out images, that kid, precision and their like are taken against
BLOCK = 1024  # rows of features that statistics take at once
NAME = "reference"  # of both files


@dataclass(frozen=True)
class RealImages:
    """The training images, and held-out images of the same kind that are not among them.

    kept: places of `heldout` among the held-out images that were given; the others are training images too. labels:
    classes of the held-out images, for fd_classifier.
    """

    train: ImageSet
    heldout: ImageSet
    kept: NDArray[np.int64]
    labels: Tensor | None = None

    @classmethod
    def of(cls, train: ImageSet, heldout: ImageSet, labels: Tensor | None = None) -> "RealImages":
        """Leaves out held-out images that are training images too. Raises UserError for sets unlike or too small."""
        check_alike(train, heldout)
        kept = unseen(heldout, train)
        dropped = len(heldout) - len(kept)
        for images, count in ((train, len(train)), (heldout, len(kept))):
            if count < 2:
                seen = f" ({dropped} others are training images too)" if images is heldout and dropped else ""
                raise UserError(f"{images.where}: evaluation needs at least 2 images, found {count}{seen}; add others")
        if dropped:
            heldout = heldout.subset(kept)
            labels = None if labels is None else labels[torch.from_numpy(kept)]
        return cls(train, heldout, kept, labels)

    @classmethod
    def of_data(cls, data: ImageData) -> "RealImages":
        """The clean images of a run. Raises UserError as `of` does."""
        train = ImageSet.of("the training images", data.train)
        return cls.of(train, ImageSet.of("the held-out images", data.heldout), data.heldout_labels)


@dataclass(frozen=True)
class Settings:
    """What a reference was made from. key and data_fingerprint: of a stored one; the key is `reference_key`."""

    evaluation: EvaluationConfig
    heldout: int  # images behind each distance
    key: str = ""
    data_fingerprint: str = ""


@dataclass
class Reference:
    """Statistics of the held-out images per distance, and what the memorization measures compare with."""

    settings: Settings
    encoders: Encoders
    statistics: dict[Distance, Statistics]
    features: Tensor  # of held-out images by the encoder of `fidelity`, float32 [M, D]
    train: Tensor  # thumbnails of the training images, float32 [N, C, h, w] in [-1, 1]
    heldout: Nearness  # of the held-out images
    similar: Tensor | None = None  # features of the training images at length 1, float32 [N, D]
    train_features: dict[Distance, Tensor] = field(default_factory=dict)  # those that are known: not in a stored one

    @property
    def config(self) -> EvaluationConfig:
        return self.settings.evaluation

    @classmethod
    def build(cls, data: ImageData, config: EvaluationConfig, *, device: str = "cpu") -> "Reference":
        """The reference of a sweep's trials, to be stored. Raises UserError as `of` and `RealImages.of` do."""
        reference = cls.of(RealImages.of_data(data), config, device=device)
        reference.settings = dataclasses.replace(
            reference.settings, key=reference_key(data, config), data_fingerprint=data.fingerprint
        )
        return reference

    @classmethod
    def of(
        cls, real: RealImages, config: EvaluationConfig, names: Sequence[str] | None = None, device: str = "cpu"
    ) -> "Reference":
        """The reference for the measures `names`, by default a sweep's. Raises UserError where `compared` does."""
        train, heldout = compared(real, config, names, device)
        classifier = None
        if "fd_classifier" in (*config.distances, config.similarity):
            classifier = train_classifier(torch.cat(list(real.heldout.blocks())), real.labels)
        encoders = Encoders(config, classifier)
        features = {distance: encoders.real(distance, real.heldout, device) for distance in config.distances}
        some = np.sort(rng.permutation("evaluation.features", 0, 0, len(real.heldout))[:MOST_FEATURES])
        reference = cls(
            Settings(config, len(real.heldout)),
            encoders,
            {distance: statistics(torch.split(each, BLOCK)) for distance, each in features.items()},
            features[config.fidelity][torch.from_numpy(some)],
            train,
            heldout,
        )
        similarity = config.similarity
        if similarity is not None:
            if similarity not in features:
                features[similarity] = encoders.real(similarity, real.heldout, device)
            reference.train_features = {similarity: encoders.real(similarity, real.train, device)}
            reference.similar = normalised(reference.train_features[similarity])
            similarities = nearest_similarity(features[similarity], reference.similar, device=device).cpu()
            reference.heldout = dataclasses.replace(heldout, similarities=similarities)
        return reference

    def nearest_train(self, images: Tensor, device: str = "cpu") -> tuple[Tensor, Tensor]:
        """Of images uint8 [N, C, H, W], by thumbnails, the distance to the nearest training image and its index: [N, 1]."""
        return nearest(thumbnails(images), self.train, 1, device=device)


def compared(
    real: RealImages, config: EvaluationConfig, names: Sequence[str] | None = None, device: str = "cpu"
) -> tuple[Tensor, Nearness]:
    """Thumbnails of the training images, and how near held-out images are to them: all before the costly part.

    Raises UserError where there are too few images for one of the measures `names`, by default those that the config's keys
    ask for, or no classes for fd_classifier.
    """
    check_counts(names, config, {"held-out": len(real.heldout)})
    if "fd_classifier" in (*config.distances, config.similarity):
        classes_of(real.labels)
    train, small = (torch.cat([*map(thumbnails, each.blocks())]) for each in (real.train, real.heldout))
    near = Nearness.of(small, train, device=device)
    heldout = Nearness(near.distances.cpu(), near.indices.cpu(), near.flips.cpu())
    memorization([config.memorization] if names is None else names, heldout, heldout, config.quantile)
    return train, heldout


def reference_key(data: ImageData, config: EvaluationConfig) -> str:
    """A hash, 16 hex digits, of all that determines the values of a reference: images, labels, encoders, quantile."""
    labels = None if data.heldout_labels is None else data.heldout_labels.tolist()
    encoders: list[Any] = [sorted(config.distances), config.fidelity, config.similarity]
    if "fd_file" in (*config.distances, config.similarity):
        encoders.append([config.encoder_sha256, config.encoder_size])
    return digest([FORMAT, data.fingerprint, labels, encoders, config.quantile])[:16]


def save_reference(reference: Reference, folder: Path) -> None:
    """Writes `folder`, whole or not at all; an existing one is replaced. Raises UserError where it cannot be written."""
    tensors = {"features": reference.features, "train": reference.train}
    if reference.similar is not None:
        tensors["similar"] = reference.similar
    tensors |= {f"heldout/{name}": each for name, each in vars(reference.heldout).items() if each is not None}
    for distance, each in reference.statistics.items():
        tensors[f"{distance}/mean"], tensors[f"{distance}/root"] = each.mean, each.root
    if reference.encoders.classifier is not None:
        weights = reference.encoders.classifier.state_dict()
        tensors |= {f"classifier/{name}": value for name, value in weights.items()}
    notes = {"settings": TypeAdapter(Settings).dump_python(reference.settings, mode="json")}
    try:
        write_tensors(folder, NAME, tensors, notes)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None


def load_reference(folder: Path) -> Reference:
    """What `save_reference` wrote, mapped from the file. Raises UserError where a file is missing or damaged."""
    advice = "remove the folder and it will be made again"
    try:
        tensors, notes = read_tensors(folder, NAME, "cpu")
        settings = TypeAdapter(Settings).validate_python(notes["settings"])
    except UserError as error:
        raise UserError(f"{error}; {advice}") from None
    except (ValidationError, KeyError):
        raise UserError(f"{folder}: of another version; {advice}") from None
    nearness = (tensors.get(f"heldout/{name}") for name in ("distances", "indices", "flips", "similarities"))
    return Reference(
        settings,
        Encoders(settings.evaluation, _classifier(tensors)),
        {
            name: Statistics(tensors[f"{name}/mean"], tensors[f"{name}/root"], settings.heldout)
            for name in settings.evaluation.distances
        },
        tensors["features"],
        tensors["train"],
        Nearness(*nearness),  # type: ignore[arg-type]
        tensors.get("similar"),
    )


def _classifier(tensors: dict[str, Tensor]) -> Classifier | None:
    prefix = "classifier/"
    weights = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    if not weights:
        return None
    classifier = empty_classifier(weights["convolutions.0.weight"].shape[1], len(weights["output.bias"]))
    classifier.load_state_dict(weights)
    return classifier.eval().requires_grad_(False)
