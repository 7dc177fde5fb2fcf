"""The whole evaluation: generated images against training and held-out ones, with what real images would get beside it.

A fidelity measure's null is its floor: as many training images in place of the generated ones. A memorization measure's
null is what held-out images get, which nobody can have copied.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ambient_sweep import rng
from ambient_sweep.config import Distance, EvaluationConfig
from ambient_sweep.data.evaluation_set import ImageSet, check_alike, overlap
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.cache import Features, Mapped, cached_features
from ambient_sweep.evaluation.encoders import Encoder, build_encoder, encode, train_classifier
from ambient_sweep.evaluation.evaluator import fidelity_extras
from ambient_sweep.evaluation.fidelity import Moments, Statistics, frechet, frechet_infinity, small_sample_warning
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.evaluation.memorization import (
    LOCAL,
    NEIGHBOURHOOD,
    SIMILARITIES,
    SimilarityHistograms,
    authpct,
    c_t,
    local_distances,
    mem_excess,
    mem_ratio,
    nearest_similarity,
    neighbourhood_ratio,
    normalised,
    null_threshold,
    shares_above,
    sim_excess,
    thumbnails,
)
from ambient_sweep.evaluation.needs import check_counts
from ambient_sweep.evaluation.neighbours import ApproximateIndex, merge_flips, nearest
from ambient_sweep.evaluation.report import Report, Row

Search: TypeAlias = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # thumbnails, k -> distances [N, k], places [N, k]
PIXEL_MEASURES = (
    "mem_excess", "mem_local_excess", "mem_ratio", "mem_excess_flips", "mem_ratio_flips", "mem_neighbourhood",
)  # fmt: skip
DIAGNOSTICS = ("authpct", "c_t")
THUMBNAILS = "thumbnails16/1"  # identity of what is kept of them
SUSPICIOUS = 0.01  # share of held-out images that look like copies of training images, above which a line says so


class Suite:
    """Measures generated sets against `train` and `heldout`; what depends on these alone is computed once.

    labels: classes of the held-out images, for fd_classifier. without: names of measures to leave out. cache: folder for
    the features of the real images; None: they are not kept. search: makes the search for the training images nearest in
    pixels; by default exact, on `device`. approximate: search by faiss, and measure its recall. Raises UserError where the
    sets differ in form, overlap, or hold fewer images than a measure needs.
    """

    def __init__(
        self,
        train: ImageSet,
        heldout: ImageSet,
        config: EvaluationConfig,
        *,
        labels: Tensor | None = None,
        without: Sequence[str] = (),
        device: str = "cpu",
        cache: Path | None = None,
        search: Callable[[Mapped], Search] | None = None,
        approximate: bool = False,
    ) -> None:
        self.train, self.heldout, self.config = train, heldout, config
        self.labels, self.without, self.device, self.cache = labels, frozenset(without), device, cache
        self.make_search, self.approximate = search or self._exact, approximate
        unknown = self.without - set(self.names)
        if unknown:
            raise UserError(f"--without: {min(unknown)} is not measured; there are {', '.join(self.names)}")
        check_alike(train, heldout)
        _refuse_overlap(train, heldout)
        for images in (train, heldout):
            if len(images) < 2:
                raise UserError(f"{images.where}: holds {len(images)} image; nothing can be measured with fewer than 2")
        self._encoders: dict[Distance, Encoder] = {}
        self._statistics: dict[Distance, Statistics] = {}
        self._floors: dict[tuple[Distance, int], dict[str, Measure]] = {}
        self._known: dict[tuple[Distance, str], Features] = {}  # by encoder and images

    @property
    def names(self) -> tuple[str, ...]:
        """All measures, in the order of a report."""
        fidelity = [name for d in self.config.distances for name in (d, f"{d}_infinity")]
        similar = ["sim_excess", *(f"sim_above_{s:g}" for s in SIMILARITIES), *DIAGNOSTICS]
        recall = ["search_recall"] if self.approximate else []
        return (*fidelity, *self.config.extras, *PIXEL_MEASURES, *recall, *(similar if self.config.similarity else []))

    def measure(self, generated: ImageSet) -> Report:
        """All measures of one generated set. Raises UserError where it differs in form or holds too few images."""
        check_alike(generated, self.train)
        asked = [name for name in self.names if name not in self.without]
        check_counts(asked, self.config, generated, self.train, self.heldout)
        rows: list[Row] = []
        warnings = list(self._warnings)
        pixel_rows, order = self._copies(generated)
        for distance in self.config.distances:
            rows += self._fidelity(distance, generated, warnings)
        similar, histograms = self._similarity(generated)
        rows += [*pixel_rows, *similar]
        shown = {row.name: row for row in rows}
        seed = self.config.seed
        kept = tuple(shown[name].seeded(seed) for name in asked)
        real = (self.train.fingerprint, self.heldout.fingerprint)
        self._known = {key: features for key, features in self._known.items() if key[1] in real}
        return Report(kept, histograms, tuple(warnings), order)

    # -- fidelity ----------------------------------------------------------------------------------------------------

    def _fidelity(self, distance: Distance, generated: ImageSet, warnings: list[str]) -> Iterator[Row]:
        features = torch.from_numpy(self._features(distance, generated, keep=False))
        measures = self._fidelity_of(distance, features)
        floors = self._floor(distance, len(generated))
        warning = small_sample_warning(min(len(generated), len(self.heldout)), features.shape[1])
        if warning is not None:
            warnings.append(f"{distance}: {warning}")
        if floors[distance].n < len(generated):
            warnings.append(
                f"{distance}: its floor is that of {floors[distance].n} training images, all there are, and too high "
                f"beside a value of {len(generated)} images"
            )
        for name, measure in measures.items():
            yield Row(name, "fidelity", measure, floors[name])
        if f"{distance}_infinity" not in self.without:
            infinity = frechet_infinity(
                features.to(self.device), self.statistics(distance), seed=self.config.seed, at_n=measures[distance]
            )
            yield Row(f"{distance}_infinity", "fidelity", replace(infinity, encoder=self._encoder(distance).name))

    def _fidelity_of(self, distance: Distance, features: Tensor) -> dict[str, Measure]:
        features = features.to(self.device)
        value = frechet(features, self.statistics(distance))
        measures: dict[str, Measure] = {distance: replace(value, encoder=self._encoder(distance).name)}
        if distance == self.config.fidelity:
            real = torch.from_numpy(np.array(self._features(distance, self.heldout))).to(self.device)
            extras = tuple(name for name in self.config.extras if name not in self.without)
            measures |= fidelity_extras(extras, features, real, self._encoder(distance).name)
        return measures

    def _floor(self, distance: Distance, n: int) -> dict[str, Measure]:
        """The same measures of n training images, or of all where there are fewer."""
        n = min(n, len(self.train))
        if (distance, n) not in self._floors:
            rows = np.sort(rng.permutation("evaluation.floor", self.config.seed, 0, len(self.train))[:n])
            if distance == self.config.similarity:
                features = torch.from_numpy(self._features(distance, self.train)[rows])
            else:
                features = self._encode(distance, (self.train.rows(part) for part in _parts(rows)))
            self._floors[distance, n] = self._fidelity_of(distance, features)
        return self._floors[distance, n]

    def statistics(self, distance: Distance) -> Statistics:
        """Of the held-out images' features."""
        if distance not in self._statistics:
            moments = Moments()
            features = self._features(distance, self.heldout)
            for start in range(0, len(features), 8192):
                moments.update(torch.from_numpy(np.array(features[start : start + 8192])).to(self.device))
            self._statistics[distance] = moments.to_statistics()
        return self._statistics[distance]

    @cached_property
    def _k(self) -> int:
        """Nearest training images that the measures of copies need."""
        wide = "mem_neighbourhood" not in self.without
        return NEIGHBOURHOOD if wide else min(LOCAL + 1, len(self.train))

    # -- memorization ------------------------------------------------------------------------------------------------

    def _copies(self, generated: ImageSet) -> tuple[list[Row], tuple[NDArray[np.int64], NDArray[np.int64]]]:
        small = _thumbnails(generated)
        plain, index = self._nearest(small, self._k)
        flips = self._nearest_flips(small)
        null, null_flips = self._null, self._null_flips
        quantile = self.config.quantile
        rows = [
            Row("mem_ratio", "memorization", mem_ratio(plain[:, :2]), mem_ratio(null[:, :2])),
            Row("mem_ratio_flips", "memorization", mem_ratio(flips), mem_ratio(null_flips)),
        ]
        for name, mine, theirs in (
            ("mem_excess", plain[:, 0], null[:, 0]),
            ("mem_excess_flips", flips[:, 0], null_flips[:, 0]),
            ("mem_local_excess", local_distances(plain), local_distances(null)),
        ):
            if name not in self.without:
                rows.append(Row(name, "memorization", mem_excess(mine, null_threshold(theirs, quantile), quantile)))
        if "mem_neighbourhood" not in self.without:
            rows.append(Row("mem_neighbourhood", "memorization", neighbourhood_ratio(plain), neighbourhood_ratio(null)))
        if self.approximate and "search_recall" not in self.without:
            rows.append(Row("search_recall", "diagnostic", self._index.recall(small, 2)))
        order = plain[:, 0].sort(stable=True).indices
        return rows, (order.numpy(), index[order, 0].numpy())

    def _nearest(self, small: Tensor, k: int) -> tuple[Tensor, Tensor]:
        distances, index = self._search(small, k)
        return distances.cpu(), index.cpu()

    def _nearest_flips(self, small: Tensor) -> Tensor:
        """As `neighbours.nearest_with_flips`, by this suite's search."""
        return merge_flips(self._nearest(small, 2), self._nearest(small.flip(-1), 2), 2)[0]

    @cached_property
    def _search(self) -> Search:
        return self._index.nearest if self.approximate else self.make_search(self._small_train)

    @cached_property
    def _index(self) -> ApproximateIndex:
        return ApproximateIndex(self._small_train, seed=self.config.seed)

    def _exact(self, targets: Mapped) -> Search:
        return lambda small, k: nearest(small, targets, k, device=self.device)

    @cached_property
    def _small_train(self) -> Mapped:
        """Thumbnails of the training images; where features are kept, so are they, and stay on the disk."""
        first = thumbnails(next(self.train.blocks(1)))
        rows = cached_features(
            self.cache,
            self.train.fingerprint,
            THUMBNAILS,
            len(self.train),
            lambda: (thumbnails(block).flatten(1) for block in self.train.blocks()),
        )
        return Mapped(rows, tuple(first.shape[1:]))

    @cached_property
    def _null(self) -> Tensor:
        return self._nearest(_thumbnails(self.heldout), self._k)[0]

    @cached_property
    def _null_flips(self) -> Tensor:
        return self._nearest_flips(_thumbnails(self.heldout))

    def _similarity(self, generated: ImageSet) -> tuple[list[Row], dict[str, SimilarityHistograms]]:
        distance = self.config.similarity
        if distance is None:
            return [], {}
        encoder, rows = self._encoder(distance).name, []
        features = torch.from_numpy(self._features(distance, generated, keep=False))
        heldout = torch.from_numpy(np.array(self._features(distance, self.heldout)))
        mine = nearest_similarity(features, self._similar_train, device=self.device).cpu()
        null = self._null_similarities
        if "sim_excess" not in self.without:
            rows.append(Row("sim_excess", "memorization", sim_excess(mine, null, self.config.quantile)))
        shares = zip(SIMILARITIES, shares_above(mine), shares_above(null), strict=True)
        rows += [Row(f"sim_above_{s:g}", "memorization", share, theirs) for s, share, theirs in shares]
        train = Mapped(self._features(distance, self.train))
        if "authpct" not in self.without:
            rows.append(
                Row(
                    "authpct",
                    "diagnostic",
                    authpct(features, train, device=self.device),
                    authpct(heldout, train, device=self.device),
                )
            )
        if "c_t" not in self.without:
            rows.append(
                Row("c_t", "diagnostic", c_t(features, train, heldout, seed=self.config.seed, device=self.device))
            )
        rows = [replace(row, measure=replace(row.measure, encoder=encoder)) for row in rows]
        return rows, {encoder: SimilarityHistograms.of(mine, null)}

    @cached_property
    def _similar_train(self) -> Tensor:
        assert self.config.similarity is not None
        return normalised(torch.from_numpy(np.array(self._features(self.config.similarity, self.train))))

    @cached_property
    def _null_similarities(self) -> Tensor:
        assert self.config.similarity is not None
        heldout = torch.from_numpy(np.array(self._features(self.config.similarity, self.heldout)))
        return nearest_similarity(heldout, self._similar_train, device=self.device).cpu()

    # -- features ----------------------------------------------------------------------------------------------------

    def _features(self, distance: Distance, images: ImageSet, keep: bool = True) -> Features:
        key = (distance, images.fingerprint)
        if key not in self._known:
            folder = self.cache if keep and distance not in ("fd_pixels", "fd_classifier") else None
            self._known[key] = cached_features(
                folder,
                images.fingerprint,
                self._encoder(distance).identity,
                len(images),
                lambda: (self._encode(distance, [block]) for block in images.blocks()),
            )
        return self._known[key]

    def _encode(self, distance: Distance, blocks: Iterator[Tensor] | Sequence[Tensor]) -> Tensor:
        encoder, size = self._encoder(distance), self.config.batch_size
        return torch.cat([encode(encoder, block, size, self.device).cpu() for block in blocks])

    def _encoder(self, distance: Distance) -> Encoder:
        if distance not in self._encoders:
            classifier = None
            if distance == "fd_classifier":
                classifier = train_classifier(torch.cat(list(self.heldout.blocks())), self.labels)
            self._encoders[distance] = build_encoder(
                distance, device=self.device, classifier=classifier, settings=self.config
            )
        return self._encoders[distance]

    # -- warnings and errors -----------------------------------------------------------------------------------------

    @cached_property
    def _warnings(self) -> tuple[str, ...]:
        twins = mem_ratio(self._null[:, :2])
        if twins.value <= SUSPICIOUS:
            return ()
        return (
            f"{self.heldout.where}: {twins.value:.1%} of these images look like copies of training images, which hides "
            "memorization; find near duplicates with `ambient-sweep prepare --drop-duplicates`",
        )


def default_evaluation(config: EvaluationConfig) -> EvaluationConfig:
    """`config` with a similarity encoder: that of its fidelity, where none is given."""
    return config if config.similarity else config.model_copy(update={"similarity": config.fidelity})


def _refuse_overlap(train: ImageSet, heldout: ImageSet) -> None:
    pairs = overlap(train, heldout)
    if pairs:
        mine, theirs = pairs[0]
        raise UserError(
            f"{heldout.where}: {len(pairs)} of {len(heldout)} images are training images too ({heldout.names[theirs]} is "
            f"{train.names[mine]} of {train.where}), which hides memorization; remove them, or use --drop-overlap"
        )


def _thumbnails(images: ImageSet) -> Tensor:
    return torch.cat([thumbnails(block) for block in images.blocks()])


def _parts(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    return (rows[start : start + 1024] for start in range(0, len(rows), 1024))
