"""From generated images to measures: those of a sweep's trials, and the full report with what real images get beside it.

Beside a fidelity measure stands its floor, which as many training images get in place of the generated ones; beside a
memorization measure what held-out images get, which nobody can have copied.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ambient_sweep import rng
from ambient_sweep.config import Distance, EvaluationConfig
from ambient_sweep.data.evaluation_set import ImageSet, check_alike
from ambient_sweep.data.pixels import to_uint8
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.decoding import Decode, as_pixels
from ambient_sweep.evaluation.fidelity.frechet import frechet
from ambient_sweep.evaluation.fidelity.kernel import kid
from ambient_sweep.evaluation.fidelity.manifold import manifold_measures
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.evaluation.memorization.copies import mem_ratio, thumbnails
from ambient_sweep.evaluation.memorization.measures import Nearness, memorization
from ambient_sweep.evaluation.memorization.similarity import FIXED, Histograms, histograms
from ambient_sweep.evaluation.reference import RealImages, Reference
from ambient_sweep.evaluation.required_images import check_counts, trial_measures

SUSPICIOUS = 0.01  # share of held-out images that look like copies of training images, above which the report warns
BLOCK = 1024  # training images encoded at once for a floor
DECODED = 64  # samples made images at once


@dataclass(frozen=True)
class Row:
    """One measure of a generated set."""

    name: str
    kind: Literal["fidelity", "memorization"]
    measure: Measure
    null: Measure | None = None

    def seeded(self, seed: int) -> "Row":
        """With the seed of the samples, of floors and of subsets, in both values."""
        null = None if self.null is None else replace(self.null, seed=seed, encoder=self.measure.encoder)
        return replace(self, measure=replace(self.measure, seed=seed), null=null)

    def dump(self) -> dict[str, Any]:
        """As plain JSON types."""
        null = None if self.null is None else vars(self.null)
        return {"name": self.name, "kind": self.kind, **vars(self.measure), "null": null}


@dataclass(frozen=True)
class Report:
    """All measures of one generated set."""

    rows: tuple[Row, ...]
    histograms: Mapping[str, Histograms]  # of similarities to the nearest training image, by encoder
    warnings: tuple[str, ...]
    nearest: tuple[NDArray[np.int64], NDArray[np.int64]]  # generated images, nearest first; their training images


def _encoded(
    blocks: Callable[[], Iterable[Tensor]], count: int, names: Sequence[str], reference: Reference, device: str
) -> tuple[dict[Distance, Tensor], Nearness]:
    """Generated images as the measures `names` take them, all on `device`: features float32 [N, D] by distance, nearness.

    Of `count` images uint8 [n, C, H, W] in blocks.
    """
    config = reference.config
    distances = [d for d in config.distances if d in names or d == config.fidelity]
    if config.similarity is not None:
        distances.append(config.similarity)
    features = {d: reference.encoders.encode(d, blocks(), count, device) for d in dict.fromkeys(distances)}
    small = torch.cat([thumbnails(block) for block in blocks()])
    similar = None if config.similarity is None else features[config.similarity]
    return features, Nearness.of(small, reference.train, similar, reference.similar, device=device)


def evaluate(
    samples: Tensor, reference: Reference, *, device: str = "cpu", decode: Decode = as_pixels
) -> dict[str, Measure]:
    """The measures of `evaluated` alone."""
    return evaluated(samples, reference, device=device, decode=decode)[0]


def evaluated(
    samples: Tensor, reference: Reference, *, device: str = "cpu", decode: Decode = as_pixels
) -> tuple[dict[str, Measure], Histograms | None]:
    """All measures of a trial's samples, as `eight_bits` takes them, and their similarities in FIXED bins, where measured.

    Keys: `trial_measures`. Deterministic. Raises AmbientSweepError where samples are not finite.
    """
    names, images = trial_measures(reference.config, reference.heldout), eight_bits(samples, decode)
    features, nearness = _encoded(lambda: [images], len(images), names, reference, device)
    copied = _memorization(nearness, names, reference, device)
    found = fidelity(features, names, reference, device) | {name: own for name, (own, _) in copied.items()}
    mine, theirs = nearness.similarities, reference.heldout.similarities
    return found, None if mine is None or theirs is None else histograms(mine, theirs, FIXED)


def eight_bits(samples: Tensor, decode: Decode = as_pixels) -> Tensor:
    """Samples float [N, C, H, W] as images uint8, clipped to [-1, 1] only once they are pixels.

    Raises AmbientSweepError where one is not finite.
    """
    broken = int((~samples.isfinite()).flatten(1).any(1).sum())
    if broken:
        raise AmbientSweepError(f"{broken} of {len(samples)} samples are not finite; the model has diverged")
    return torch.cat([to_uint8(decode(part)) for part in torch.split(samples, DECODED)])


class FullEvaluation:
    """Measures generated sets by `names` against real images. Raises UserError where there are too few of these."""

    def __init__(self, real: RealImages, config: EvaluationConfig, names: Sequence[str], device: str = "cpu") -> None:
        self.train, self.names, self.device = real.train, tuple(names), device
        self.reference = Reference.of(real, config, names, device)
        check_counts(self.names, config, {"training": len(self.train)})
        self._floors: dict[int, dict[str, Measure]] = {}

    def report(self, generated: ImageSet) -> Report:
        """All measures of one generated set. Raises UserError where it differs in form or holds too few images."""
        reference = self.reference
        check_alike(generated, self.train)
        check_counts(self.names, reference.config, {"generated": len(generated)})
        features, found = _encoded(generated.blocks, len(generated), self.names, reference, self.device)
        floors = self._floor(min(len(generated), len(self.train)))
        measures = fidelity(features, self.names, reference, self.device)
        rows = [Row(name, "fidelity", measure, floors[name]) for name, measure in measures.items()]
        copied = _memorization(found, self.names, reference, self.device)
        rows += [Row(name, "memorization", *pair) for name, pair in copied.items()]
        shown = {row.name: row.seeded(reference.config.seed) for row in rows}
        nearest = found.distances[:, 0].sort(stable=True).indices
        return Report(
            tuple(shown[name] for name in self.names),
            self._histograms(found),
            tuple(self._warnings(features, len(generated))),
            (nearest.cpu().numpy(), found.indices[nearest, 0].cpu().numpy()),
        )

    def _floor(self, n: int) -> dict[str, Measure]:
        """The fidelity of n training images in place of generated ones."""
        if n not in self._floors:
            reference, features = self.reference, dict[Distance, Tensor]()
            rows = np.sort(rng.permutation("evaluation.floor", reference.config.seed, 0, len(self.train))[:n])
            for distance in reference.config.distances:
                if distance in reference.train_features:
                    features[distance] = reference.train_features[distance][torch.from_numpy(rows)].to(self.device)
                else:
                    blocks = (self.train.rows(rows[start : start + BLOCK]) for start in range(0, n, BLOCK))
                    features[distance] = reference.encoders.encode(distance, blocks, n, self.device)
            self._floors[n] = fidelity(features, self.names, reference, self.device)
        return self._floors[n]

    def _histograms(self, found: Nearness) -> dict[str, Histograms]:
        similarity, theirs = self.reference.config.similarity, self.reference.heldout.similarities
        if similarity is None or found.similarities is None or theirs is None:
            return {}
        return {self.reference.encoders.get(similarity, self.device).name: histograms(found.similarities, theirs)}

    def _warnings(self, features: Mapping[Distance, Tensor], n: int) -> Iterator[str]:
        reference = self.reference
        lookalikes = mem_ratio(reference.heldout.distances).value
        if lookalikes > SUSPICIOUS:
            yield (
                f"the held-out images: {lookalikes:.1%} of them look like copies of training images, which hides "
                "memorization; find near duplicates with `ambient-sweep prepare --drop-duplicates`"
            )
        for distance in self.names:
            fewest = min(n, reference.settings.heldout)
            if distance in reference.statistics and fewest <= 2 * (size := features[distance].shape[1]):
                yield (
                    f"{distance}: {fewest} images are few for {size} features: the distance is biased upwards; compare it "
                    "with what real images get, and only with values at the same number"
                )


def fidelity(
    features: Mapping[Distance, Tensor], names: Sequence[str], reference: Reference, device: str
) -> dict[str, Measure]:
    """Those of `names` that compare the features, float32 [N, D] by distance, with the held-out images'."""
    config, found = reference.config, dict[str, Measure]()
    for distance in config.distances:
        if distance in names:
            measure = frechet(features[distance], reference.statistics[distance])
            found[distance] = replace(measure, encoder=reference.encoders.get(distance, device).name)
    extras = [name for name in config.extras if name in names]
    mine, real = features[config.fidelity], reference.features.to(device)
    values: dict[str, Measure] = {}
    if "kid" in extras:
        values["kid"] = kid(mine, real)
    if {*extras} - {"kid"}:
        values |= manifold_measures(mine, real)
    encoder = reference.encoders.get(config.fidelity, device).name
    return found | {name: replace(values[name], encoder=encoder) for name in extras}


def _memorization(
    nearness: Nearness, names: Sequence[str], reference: Reference, device: str
) -> dict[str, tuple[Measure, Measure | None]]:
    """As `memorization`, with the name of the encoder in what is measured in its features."""
    config = reference.config
    measures = memorization(names, nearness, reference.heldout, config.quantile)
    if "sim_excess" in measures and config.similarity is not None:
        encoder = reference.encoders.get(config.similarity, device).name
        measures["sim_excess"] = replace(measures["sim_excess"][0], encoder=encoder), None
    return measures
