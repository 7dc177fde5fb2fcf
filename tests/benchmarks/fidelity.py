"""What the measures of fidelity cost beside clean-fid's and torch-fidelity's, as ratios of one run; and that they agree.

    python tests/benchmarks/fidelity.py [--count 5000] [--dimensions 2048] [--repeats 3]

`count` made-up features on each side, float32, all on one thread: threads that wait for each other burn CPU time. CPU
seconds; the least over the repeats is compared, since other work on the machine only adds to it.
"""

import argparse
import contextlib
import io
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from cleanfid.fid import frechet_distance, kernel_distance
from measuring import timed
from prdc import compute_prdc
from threadpoolctl import threadpool_limits
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from ambient_sweep.evaluation.fidelity import frechet, kid, manifold_measures, statistics


def features(n: int, size: int, seed: int, scale: float, shift: float) -> torch.Tensor:
    """Correlated, not centred, with a spectrum that falls as an encoder's does."""
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, size + 1) ** -0.5
    turn = np.linalg.qr(np.random.default_rng(99).standard_normal((size, size)))[0]
    return torch.from_numpy(
        (0.4 + shift + (scale * spectrum * rng.standard_normal((n, size))) @ turn).astype(np.float32)
    )


def cpu_timed(name: str, call: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """The result, and the least CPU seconds; what the libraries print is left out."""

    def silent() -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return call()

    return timed(name, silent, repeats, time.process_time)


def compare(what: str, ours: tuple[Any, float], theirs: tuple[Any, float], values: tuple[float, float]) -> None:
    difference = abs(values[0] - values[1]) / abs(values[1])
    print(f"{what}: {theirs[1] / ours[1]:.1f} times cheaper; relative difference {difference:.1e}\n", flush=True)


def measure(n: int, size: int, repeats: int) -> None:
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    x, y = features(n, size, 0, 1.1, 0.01), features(n, size, 1, 1.0, 0.0)
    torch.set_num_threads(1)
    print(f"{n} x {size} features, one thread, least of {repeats}\n")

    moments = [(part.double().numpy().mean(0), np.cov(part.double().numpy(), rowvar=False)) for part in (x, y)]
    b = statistics([y])

    def clean_fid() -> float:
        array = x.double().numpy()
        return float(frechet_distance(array.mean(0), np.cov(array, rowvar=False), *moments[1]))

    theirs = cpu_timed("clean-fid: mean, covariance, frechet_distance", clean_fid, repeats)
    ours = cpu_timed("frechet of features, with its interval", lambda: frechet(x, b), repeats)
    compare("Frechet distance and its interval", ours, theirs, (ours[0].value, theirs[0]))
    few = x[: size // 4]
    cpu_timed(f"frechet of {len(few)} features, with its interval", lambda: frechet(few, b), repeats)
    cpu_timed("statistics", lambda: statistics([y]), repeats)
    print()

    def torch_fidelity_kid(subsets: int, subset: int) -> float:
        found = kid_features_to_metric(
            x.double(), y.double(), kid_subsets=subsets, kid_subset_size=subset, rng_seed=0, verbose=False
        )
        return float(found["kernel_inception_distance_mean"])

    x64, y64 = x.double().numpy(), y.double().numpy()
    clean = cpu_timed("clean-fid: kernel_distance, all pairs", lambda: kernel_distance(x64, y64, 1, n), repeats)
    theirs = cpu_timed("torch-fidelity: kid, all pairs", lambda: torch_fidelity_kid(1, n), repeats)
    ours = cpu_timed("kid, all pairs, with its interval", lambda: kid(x, y), repeats)
    compare("KID, to clean-fid's", ours, clean, (ours[0].value, clean[0]))
    compare("KID, to torch-fidelity's", ours, theirs, (ours[0].value, theirs[0]))

    theirs = cpu_timed(
        "torch-fidelity: precision and recall, float32",
        lambda: prc_features_to_metric(
            x, y, prc_neighborhood=3, prc_batch_size=10000, save_cpu_ram=False, verbose=False
        ),
        repeats,
    )
    ours = cpu_timed(
        "manifold_measures: precision, recall, density, coverage", lambda: manifold_measures(x, y), repeats
    )
    compare("Precision, and the other three", ours, theirs, (ours[0]["precision"].value, theirs[0]["precision"]))
    theirs = cpu_timed("prdc: k = 5", lambda: compute_prdc(y64, x64, nearest_k=5), repeats)
    compare("Density, and the other three", ours, theirs, (ours[0]["density"].value, theirs[0]["density"]))


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("count", 5000), ("dimensions", 2048), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args(words)
    with threadpool_limits(1):  # numpy's and scipy's
        measure(asked.count, asked.dimensions, asked.repeats)


if __name__ == "__main__":
    main()
