"""Training speed of the presets: `python tests/benchmarks/throughput.py [--presets unet-32 unet-64] [--batch 256]`.

Prints a row of docs/gpu.md for each preset, in bf16, with and without torch.compile: images per second of the whole loop
(generated images, noise, ambient loss, optimizer, averages), peak memory, and the share of the device's dense bf16 peak that
the network's matrix products use, three times the forward FLOPs per image. Needs a GPU, or `--device cpu` to try it out.
"""

import argparse
import time

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ambient_sweep.config import Config, build_config
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.models import build_model, count_parameters
from ambient_sweep.training.loop import train
from ambient_sweep.training.state import TrainState

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}  # dense bf16, data sheets
WARMUP, COUNTED = 10, 40  # steps


def config_of(preset: str, batch: int, compiled: bool) -> Config:
    side = int(preset.partition("-")[2])
    return build_config({
        "data": {"source": "array", "path": "generated", "image_size": side, "channels": 3},
        "model.preset": preset,
        "objective.kind": "ambient",
        "observed.sigma": 0.2,
        "compute": {"precision": "bf16", "channels_last": preset.startswith("unet"), "compile": compiled},
        "training": {"images": batch * (WARMUP + COUNTED), "batch_size": batch, "records": 1},
        "evaluation.lengths": [1.0],
    })  # fmt: skip


def forward_flops(config: Config, shape: tuple[int, int, int]) -> int:
    """Of the matrix products and convolutions for one image, a multiply-add taken for two."""
    with FakeTensorMode(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        build_model(config.model, shape, 0).network(torch.empty(1, *shape), torch.empty(1))
    return int(counter.get_total_flops())


def timed(config: Config, observed: ObservedImages, state: TrainState, warmup: int) -> tuple[float, str]:
    """Images per second of a run after `warmup` steps, and the device's peak memory there."""
    begun, began, cuda = config.training.batch_size * warmup, 0.0, state.device.type == "cuda"
    for record in train(config, observed, state, stops=frozenset({begun})):
        if record.images == begun:  # a record waits for the device
            began = time.perf_counter()
            if cuda:
                torch.cuda.reset_peak_memory_stats()
    speed = (config.length - begun) / (time.perf_counter() - began)
    return speed, f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if cuda else "-"


def measure(preset: str, batch: int, compiled: bool, device: str) -> tuple[str, ...]:
    """One row of the table."""
    config = config_of(preset, batch, compiled)
    shape = (3, config.data.image_size, config.data.image_size)
    pixels = np.random.default_rng(0).standard_normal((1024, *shape), dtype=np.float32)
    observed = ObservedImages(torch.from_numpy(pixels), torch.full((len(pixels),), 0.2))
    state = TrainState.create(config, shape, device)
    flops = 3 * forward_flops(config, shape)
    speed, memory = timed(config, observed, state, WARMUP)
    share = "-"
    if device == "cuda":
        peak = next((peak for name, peak in PEAKS.items() if name in torch.cuda.get_device_name()), None)
        share = "unknown peak" if peak is None else f"{speed * flops / peak:.0%}"
    parameters = count_parameters(state.denoiser) / 1e6
    mode = "yes" if compiled else "no"
    return f"{preset} ({parameters:.1f} M)", str(batch), mode, f"{speed:,.0f}", memory, share


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["unet-32", "unet-64"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled runs")
    words = parser.parse_args(given)
    name = torch.cuda.get_device_name() if words.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, bf16\n")
    print(
        "| network | batch | compile | images/s | peak memory | share of the matrix peak |\n|---|---|---|---|---|---|"
    )
    for preset in words.presets:
        for compiled in (False,) if words.no_compile else (False, True):
            row = measure(preset, words.batch, compiled, words.device)
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
