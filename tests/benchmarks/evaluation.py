"""What an evaluation costs, beside clean-fid and torch-fidelity on the same images, written to disk.

    python tests/benchmarks/evaluation.py [--count 5000] [--threads 2]

`count` samples of 32x32: all default measures with the default encoder, and the same with Inception; clean-fid's features,
FID and KID; torch-fidelity's FID, KID, precision and recall. What depends on real images alone is computed beforehand for
all. Inception is torchvision's with random weights for all: the time is the same.
"""

import argparse
import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cleanfid import fid as clean_fid
from measuring import timed
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.data.evaluation_set import ImageSet
from ambient_sweep.evaluation.encoders import inception
from ambient_sweep.evaluation.evaluator import FullEvaluation
from ambient_sweep.evaluation.real_images import RealImages
from ambient_sweep.evaluation.reference import Reference
from ambient_sweep.evaluation.required_images import all_measures, with_similarity


class StandIn(nn.Module):
    """torchvision's Inception-v3 under the name that clean-fid's weights have for their layers."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import inception_v3

        network = inception_v3(weights=None, init_weights=False, aux_logits=False)
        network.fc = nn.Identity()
        # traced: the script of its own forward pass gives logits and auxiliary ones
        self.layers = torch.jit.trace(network.eval(), torch.zeros(2, 3, 299, 299))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers((x - 128) / 128)


def crops(count: int, seed: int) -> NDArray[np.uint8]:
    """Windows of 32x32 of two photographs, uint8 [N, C, H, W]."""
    generator = np.random.default_rng(seed)
    photos = load_sample_images().images
    images = np.empty((count, 3, 32, 32), dtype=np.uint8)
    for image in images:
        photo = photos[generator.integers(2)]
        top, left = generator.integers(photo.shape[0] - 32), generator.integers(photo.shape[1] - 32)
        image[:] = photo[top : top + 32, left : left + 32].transpose(2, 0, 1)
    return np.unique(images, axis=0)


def compare(count: int, place: Path, alone: bool) -> None:
    images = crops(3 * count + count // 10, 0)
    np.random.default_rng(1).shuffle(images)
    parts = {role: images[i * count : (i + 1) * count] for i, role in enumerate(("generated", "train", "heldout"))}
    for role in ("generated", "heldout"):
        (place / role).mkdir()
        for i, image in enumerate(parts[role]):
            Image.fromarray(image.transpose(1, 2, 0)).save(place / role / f"{i:05d}.png")
    torch.manual_seed(0)
    network = torch.jit.script(StandIn().eval())
    file = place / "inception-2015-12-05.pt"
    network.save(str(file))
    inception.INCEPTION = replace(inception.INCEPTION, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    sets = {role: ImageSet.of(role, part) for role, part in parts.items()}
    seconds = {}
    for distance in ("fd_lite0@64",) if alone else ("fd_lite0@64", "fid"):
        weights = str(file) if distance == "fid" else None
        config = with_similarity(
            EvaluationConfig(
                distances=(distance,), fidelity=distance, inception_weights=weights, quantile=max(0.01, 1.5 / count)
            )
        )
        names, real = all_measures(config), RealImages.of(sets["train"], sets["heldout"])
        full = FullEvaluation(Reference.of(real, config, names), names)
        full.report(ImageSet.of("warm-up", parts["heldout"]))  # the floor at this number
        _, seconds[distance] = timed(f"ours, {distance}", lambda full=full: full.report(sets["generated"]))
    if alone:
        return
    theirs = sum(of_clean_fid(network, place, parts["heldout"]) + of_torch_fidelity(network, place, count))
    for distance, own in seconds.items():
        print(f"  ratio, {distance}: {theirs / own:.1f}")


def of_clean_fid(network: Any, place: Path, heldout: NDArray[np.uint8]) -> list[float]:
    def features(folder: str) -> NDArray[np.float32]:
        found: NDArray[np.float32] = clean_fid.get_folder_features(
            str(place / folder), network, num_workers=0, device=torch.device("cpu"), mode="clean", verbose=False
        )
        return found

    real = np.random.default_rng(0).standard_normal((len(heldout), 2048))  # known beforehand; algebra takes as long
    mu, sigma = real.mean(0), np.cov(real, rowvar=False)
    mine, passed = timed("clean-fid, features", lambda: features("generated"))
    _, distance = timed(
        "clean-fid, FID", lambda: clean_fid.frechet_distance(mine.mean(0), np.cov(mine, rowvar=False), mu, sigma)
    )
    _, kernel = timed("clean-fid, KID", lambda: clean_fid.kernel_distance(mine, real))
    return [passed, distance, kernel]


def of_torch_fidelity(network: Any, place: Path, count: int) -> list[float]:
    import torch_fidelity
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class Extractor(FeatureExtractorBase):  # type: ignore[misc]
        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)
            self.network = network

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("2048",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "2048"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            large = nn.functional.interpolate(x.float(), (299, 299), mode="bilinear", align_corners=False)
            return (self.network(large),)

    torch_fidelity.register_feature_extractor("stand-in", Extractor)
    known = {
        "input2": str(place / "heldout"), "input2_cache_name": "heldout", "cache_root": str(place / "cache"),
        "cuda": False, "feature_extractor": "stand-in", "verbose": False, "kid_subset_size": min(500, count),
    }  # fmt: skip
    few = place / "few"
    few.mkdir()
    for path in sorted((place / "generated").iterdir())[:500]:
        (few / path.name).symlink_to(path)
    torch_fidelity.calculate_metrics(input1=str(few), fid=True, kid=True, prc=True, **known)  # fills the cache
    run = {"input1": str(place / "generated"), "fid": True, "kid": True, "prc": True, **known}
    return [timed("torch-fidelity, FID, KID, PRC", lambda: torch_fidelity.calculate_metrics(**run))[1]]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="ours with the default encoder only")
    asked = parser.parse_args(words)
    torch.set_num_threads(asked.threads)
    print(f"The whole evaluation of {asked.count:,} samples of 32x32")
    known = inception.INCEPTION
    try:
        with tempfile.TemporaryDirectory() as name:
            compare(asked.count, Path(name), asked.alone)
    finally:
        inception.INCEPTION = known


if __name__ == "__main__":
    main()
