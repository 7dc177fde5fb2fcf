"""What an evaluation costs, beside clean-fid and torch-fidelity on the same images, written to disk.

    python tests/benchmarks/evaluation.py [--count 5000] [--threads 2] [--parts frechet neighbours whole]

frechet: the distance of 2,048 features, ours against clean-fid's. neighbours: 5,000 images of 16x16x3 against 50,000, ours
against a loop over images. whole: `count` samples of 32x32, all default measures with the default encoder, and the same with
Inception; clean-fid's features, FID and KID; torch-fidelity's FID, KID, precision and recall. What depends on real images
alone is known beforehand to all. Inception is torchvision's with random weights for all: the time is the same.
"""

import argparse
import hashlib
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cleanfid import fid as clean_fid
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.data.evaluation_set import ImageSet
from ambient_sweep.evaluation.encoders import inception
from ambient_sweep.evaluation.evaluator import FullEvaluation
from ambient_sweep.evaluation.fidelity import frechet, statistics
from ambient_sweep.evaluation.neighbours import nearest
from ambient_sweep.evaluation.real_images import RealImages
from ambient_sweep.evaluation.reference import Reference
from ambient_sweep.evaluation.required_images import all_measures, with_similarity


def timed(name: str, work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - begun
    print(f"  {name:<58} {seconds:9.2f} s", flush=True)
    return seconds, result


def of_frechet() -> None:
    print("Frechet distance, 2,048 features, 5,000 samples against known statistics of 5,000 images")
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(2048, 2048, generator=generator) / 45
    x, y = (torch.randn(5000, 2048, generator=generator) @ mixing + shift for shift in (0.0, 0.1))
    real = statistics([y])
    mu, sigma = y.double().mean(0).numpy(), np.cov(y.double().numpy(), rowvar=False)
    ours, mine = timed("ours", lambda: frechet(x, real, interval=False))
    whole, _ = timed("ours, with its interval", lambda: frechet(x, real))
    theirs, value = timed(
        "clean-fid's frechet_distance",
        lambda: clean_fid.frechet_distance(
            x.double().mean(0).numpy(), np.cov(x.double().numpy(), rowvar=False), mu, sigma
        ),
    )
    apart = abs(mine.value - value) / value
    print(
        f"  ratio {theirs / ours:.1f}, with the interval {theirs / whole:.1f}; values differ by {apart:.1e} relative\n"
    )


def of_neighbours() -> None:
    print("Nearest neighbours, 5,000 against 50,000, 768 values")
    generator = torch.Generator().manual_seed(0)
    queries, targets = (torch.rand(n, 768, generator=generator) for n in (5000, 50_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours, found = timed("ours, exact", lambda: nearest(queries, targets, 2))
    own = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    some, best = timed(
        "a loop over images, 50 of them",
        lambda: [(targets - query).square().sum(1).topk(2, largest=False).indices for query in queries[:50]],
    )
    same = torch.equal(torch.stack(best), found[1][:50])
    print(f"  ratio {100 * some / ours:.0f}; {own:.2f} GiB of own memory; same neighbours: {same}\n")


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


def of_whole(count: int) -> None:
    print(f"The whole evaluation of {count:,} samples of 32x32")
    with tempfile.TemporaryDirectory() as name:
        whole(count, Path(name))


def whole(count: int, place: Path) -> None:
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
    for distance in ("fd_lite0@64", "fid"):
        config = with_similarity(
            EvaluationConfig(distances=(distance,), fidelity=distance, inception_weights=str(file))
            if distance == "fid"
            else EvaluationConfig(distances=(distance,), fidelity=distance)
        )
        names, real = all_measures(config), RealImages.disjoint(sets["train"], sets["heldout"])
        full = FullEvaluation(Reference.of(real, config, names), names)
        full.report(ImageSet.of("warm-up", parts["heldout"]))  # the floor at this number
        seconds[distance], _ = timed(f"ours, {distance}", lambda full=full: full.report(sets["generated"]))
    theirs = sum(of_clean_fid(network, place, parts["heldout"]) + of_torch_fidelity(network, place))
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
    passed, mine = timed("clean-fid, features", lambda: features("generated"))
    distance, _ = timed(
        "clean-fid, FID", lambda: clean_fid.frechet_distance(mine.mean(0), np.cov(mine, rowvar=False), mu, sigma)
    )
    kernel, _ = timed("clean-fid, KID", lambda: clean_fid.kernel_distance(mine, real))
    return [passed, distance, kernel]


def of_torch_fidelity(network: Any, place: Path) -> list[float]:
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
        "cuda": False, "feature_extractor": "stand-in", "verbose": False, "kid_subset_size": 500,
    }  # fmt: skip
    few = place / "few"
    few.mkdir()
    for path in sorted((place / "generated").iterdir())[:500]:
        (few / path.name).symlink_to(path)
    torch_fidelity.calculate_metrics(input1=str(few), fid=True, kid=True, prc=True, **known)  # fills the cache
    run = {"input1": str(place / "generated"), "fid": True, "kid": True, "prc": True, **known}
    return [timed("torch-fidelity, FID, KID, PRC", lambda: torch_fidelity.calculate_metrics(**run))[0]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    parts: dict[str, Callable[[], None]] = {"frechet": of_frechet, "neighbours": of_neighbours}
    parser.add_argument("--parts", nargs="+", choices=[*parts, "whole"], default=[*parts, "whole"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for part in arguments.parts:
        parts.get(part, lambda: of_whole(arguments.count))()


if __name__ == "__main__":
    main()
