"""How fast a prepared store becomes noisy batches on one core, and how much memory that takes.

    python tests/benchmarks/loader.py                     # 50,000 generated images of 32x32x3
    python tests/benchmarks/loader.py --million           # a million of 64x64x3: needs 12 GB of disk, removed at the end

Prints figures and asserts nothing.
"""

import argparse
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from measuring import PeakMemory, memory

from ambient_sweep import rng
from ambient_sweep.config import DataConfig, ObservedConfig
from ambient_sweep.data import prepare_input
from ambient_sweep.data.dataset import ImageData, load_data
from ambient_sweep.data.observed import Observed, observe
from ambient_sweep.data.prepare import Options, prepare
from ambient_sweep.data.sources import Block


class Generated:
    """Random pictures, coarse before fine as photos are, made block by block: a source of any length that holds nothing."""

    labels, classes, sigma, depth8 = None, (), None, True

    def __init__(self, count: int, side: int) -> None:
        self.count, self.side, self.names = count, side, Names(count)

    def __len__(self) -> int:
        return self.count

    def blocks(self, size: int) -> Iterator[Block]:
        for start in range(0, self.count, size):
            draw = np.random.default_rng(start)
            n = min(size, self.count - start)
            images = draw.integers(0, 8, (n, self.side, self.side, 3), dtype=np.uint8)
            for cells, range_ in ((2, 128), (4, 80), (8, 40)):
                coarse = draw.integers(0, range_, (n, cells, cells, 3), dtype=np.uint8)
                images += coarse.repeat(self.side // cells, axis=1).repeat(self.side // cells, axis=2)
            yield Block(start, images, [])


class Names:
    """As many names, held by nobody."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> str:
        return f"{row:08d}"


def rate(batch: Callable[[np.ndarray], object], count: int, size: int, seconds: float) -> float:
    """Images per second of processor time of this thread, over random batches."""
    order = np.random.default_rng(0).permutation(count)
    batch(order[:size])
    done, begun = 0, time.thread_time()
    while time.thread_time() - begun < seconds:
        start = done % (count - size + 1)
        batch(order[start : start + size])
        done += size
    return done / (time.thread_time() - begun)


def measure(data: ImageData, size: int, seconds: float) -> None:
    rows, shape = len(data.train), data.shape

    def drawn(observed: Observed) -> Callable[[np.ndarray], object]:
        def batch(rows: np.ndarray) -> object:
            y, sigma, _, _ = observed.read(rows)
            z = rng.normal("train.noise", 0, range(int(rows[0]), int(rows[0]) + len(rows)), shape)
            return y + sigma[:, None, None, None] * z

        return batch

    one = observe(data, ObservedConfig(sigma=0.3))
    two = observe(data, ObservedConfig(sigma=0.5, base_sigma=0.3))
    for name, batch in (
        ("pixels alone", data.train.read),
        ("y: the fixed draw of each image", one.read),
        ("y above a base: two fixed draws", two.read),
        ("x_t: the fixed draw and the training draw", drawn(one)),
    ):
        with PeakMemory() as peak:
            found = rate(batch, rows, size, seconds)
        print(
            f"{name:<44} {found:>9,.0f} images/s and core   peak {peak.own:,.0f} MiB own, {peak.mapped:,.0f} MiB mapped"
        )


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5.0, help="of processor time, for each rate")
    parser.add_argument("--million", action="store_true", help="a million images of 64x64x3")
    parser.add_argument(
        "--folder", type=Path, help="where to write the store; the system's temporary folder by default"
    )
    options = parser.parse_args(words)
    count, side = (1_000_000, 64) if options.million else (options.count, options.side)
    torch.set_num_threads(1)
    source = Generated(count, side)
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        stack.enter_context(mock.patch.object(prepare_input, "open_source", return_value=source))
        print(f"{count:,} images of {side}x{side}x3, batches of {options.batch}; at first {memory()[0]:,.0f} MiB own")
        config = DataConfig(source="folder", path="generated", image_size=side, channels=3, heldout_size=count // 50)
        begun = time.perf_counter()
        with PeakMemory() as peak:
            info = prepare(
                folder / "store",
                config,
                Options(),
                lambda line: print(f"  {time.perf_counter() - begun:6.1f} s {line}"),
            )
        print(
            f"prepared in {time.perf_counter() - begun:,.1f} s, peak {peak.own:,.0f} MiB own; duplicates {info.duplicates}"
        )
        begun = time.perf_counter()
        stored = config.model_copy(update={"source": "store", "path": str(folder / "store"), "heldout_size": None})
        data = load_data(stored)
        print(f"opened in {time.perf_counter() - begun:,.2f} s, then {memory()[0]:,.0f} MiB own")
        measure(data, options.batch, options.seconds)


if __name__ == "__main__":
    main()
