"""init: writes a first sweep file for a set of images."""

import json
import re
import shutil
from pathlib import Path
from string import Template
from typing import Any

import click

from ambient_sweep.cli.group import commands
from ambient_sweep.cli.printing import as_json, check_writable, new_file_option, tell
from ambient_sweep.config import Config, build_config
from ambient_sweep.errors import UserError
from ambient_sweep.storage import write_atomic
from ambient_sweep.text import counted, duration

NIGHT = 8 * 3600  # seconds that the sweep may take
TRAININGS = 10  # whole ones that it pays for, the baseline among them
TRIALS = 40  # searched, unless the disk is too small
EPOCHS = 1000  # of a training at most: copying sets in long before
PRESETS = {  # by the largest side that they are for; where these do not fit, the first of OTHERS that does
    "cpu": {16: "unet-8", 47: "unet-32-small", 1024: "unet-64-small"},
    "cuda": {16: "unet-8", 47: "unet-32", 191: "unet-64", 1024: "unet-256"},
}
OTHERS = ("unet-64-small", "unet-32-small", "unet-8")
SETTINGS: dict[str, dict[str, Any]] = {
    "cpu": {"resources.cpus": 1, "training.batch_size": 64, "evaluation.samples": 200},
    "cuda": {"resources.gpus": 1, "training.batch_size": 256, "evaluation.samples": 1000},
}


@commands.command()
@click.argument("images", type=click.Path(path_type=Path))
@new_file_option("New file for the sweep; by default named after IMAGES.")
@as_json
def init(images: Path, out: Path | None, as_json: bool) -> None:
    """Write a commented sweep file for IMAGES, a store or a folder of images, to fit them and this machine.

    Trains a few steps first, so that the sweep takes a night at most.
    """
    import torch

    from ambient_sweep.sweep.running.dry_run import measure_pace
    from ambient_sweep.sweep.running.preflight import concurrent_trials, stage_bytes, this_machine, trial_bytes
    from ambient_sweep.trial.setup import cached_data, check_evaluation

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", (out or images.absolute()).stem).strip("-._")[:100] or "sweep"
    out = out or Path(f"{name}.yaml")
    if out.exists():
        raise UserError(f"{out}: already exists; remove it or give another --out")
    check_writable("--out", out)
    keys, device = _data_keys(images), "cuda" if torch.cuda.is_available() else "cpu"
    settings = SETTINGS[device] | {
        "evaluation.distances": ["fd_lite0@32", "fd_pixels"],
        "evaluation.fidelity": "fd_lite0@32",
    }
    smallest, extras = _allowed(_with_preset(keys | settings, device))
    settings |= {"evaluation.extras": extras, "evaluation.quantile": max(0.01, smallest)}
    config = _with_preset(keys | settings, device)
    data, (node, *_) = cached_data(config.data), this_machine()
    check_evaluation(data, config.evaluation)
    trials, pace = concurrent_trials([node], config.resources), measure_pace(config, data)
    evaluations = len(config.evaluation.lengths) * pace.evaluation(config)
    affordable = (NIGHT * trials / TRAININGS - evaluations) / pace.training(config)
    batch = config.training.batch_size
    length = _two_digits(min(max(affordable, 100 * batch), max(EPOCHS * len(data.train), 1000 * batch)))
    seconds = TRAININGS * (length * pace.training(config) + evaluations) / trials
    room = shutil.disk_usage(Path.cwd()).free / 2 / (trial_bytes(config) + stage_bytes(config))
    values = {
        **{key.partition(".")[2]: json.dumps(value) for key, value in settings.items()},
        "file": json.dumps(str(out), ensure_ascii=False), "name": json.dumps(name), "preset": config.model.preset,
        "train": f"{len(data.train):,}", "heldout": f"{len(data.heldout):,}", "shape": "x".join(map(str, data.shape)),
        "time": duration(seconds), "pace": f"{pace.trained:.3g}", "trials": counted(trials, "trial"),
        "device": f"{counted(int(node.cpus), 'CPU core')}, {counted(int(node.gpus), 'GPU') if node.gpus else 'no GPU'}",
        "data": _section(keys), "resources": _section({k: v for k, v in settings.items() if k.startswith("resources.")}),
        "labels": f"true: it learns the {data.classes} classes" if data.classes else "the images have no class labels",
        "sigma_data": max(0.05, round(float(next(data.train.blocks(1000)).std()), 2)), "smallest": smallest,
        "images": f"{length:_}", "epochs": f"{length // len(data.train):,}", "budget": f"{(TRAININGS - 1) * length:_}",
        "searched": int(min(TRIALS, max(TRAININGS, room))),
    }  # fmt: skip
    text = Template(Path(__file__).with_name("first_sweep.yaml").read_text(encoding="utf-8")).substitute(values)
    write_atomic(out, text.encode())
    lines = [
        f"{out}: {config.model.preset} for {counted(len(data.train), 'training image')}; it takes about {duration(seconds)}",
        f"read it, then start it with `ambient-sweep run {out}`",
    ]
    tell(
        {"out": str(out), "expected_seconds": seconds, "preset": config.model.preset, "images": length}, lines, as_json
    )


def _data_keys(images: Path) -> dict[str, Any]:
    """The data.* keys for a store or a folder. Raises UserError for anything else."""
    from ambient_sweep.data.sources import open_source
    from ambient_sweep.data.sources.decode import read_header
    from ambient_sweep.data.store import INFO_FILE, read_info, store_keys

    path = images.expanduser().absolute()
    if (path / INFO_FILE).exists():
        info = read_info(path)
        if info.observed is not None:
            raise UserError(f"{images}: holds noisy observations only; give the store of the clean images")
        return {key: value for key, value in store_keys(path, info).items() if (key, value) != ("data.split_seed", 0)}
    if not path.is_dir():
        hint = "decode it first: `ambient-sweep prepare STORE data.source=... data.path=...` (docs/data.md)"
        raise UserError(f"{images}: {hint if path.exists() else 'no such store or folder'}")
    keys = {"data.source": "folder", "data.path": str(path), "data.image_size": 32, "data.channels": 3}
    names = open_source(build_config({"model.kind": "mlp"}, keys, where=str(images)).data).names
    read = (read_header(lambda: (path / name).open("rb")) for name in names[:: max(1, len(names) // 100)])  # noqa: B023
    headers = [header for header in read if header is not None]
    side = sorted(min(header.width, header.height) for header in headers)[len(headers) // 2] if headers else 32
    size = next((size for size in (64, 32) if side >= size), max(4, side - side % 4))
    grey = bool(headers) and all(header.kind == "grey" for header in headers)
    return keys | {"data.image_size": size, "data.channels": 1 if grey else 3}


def _with_preset(values: dict[str, Any], device: str) -> Config:
    """The config with the preset for these images and this device. Raises UserError where none fits their side."""
    side = values["data.image_size"]
    first = next(name for most, name in PRESETS[device].items() if side <= most)
    for name in (first, *OTHERS):
        try:
            return build_config(values | {"model.preset": name})
        except UserError:
            continue
    raise UserError(f"data.image_size: no network halves a side of {side}; prepare the images with a multiple of 4")


def _allowed(config: Config) -> tuple[float, list[str]]:
    """The smallest quantile of mem_excess, and the further measures, that the images allow."""
    from ambient_sweep.evaluation.memorization.copies import smallest_quantile
    from ambient_sweep.evaluation.reference import RealImages, compared
    from ambient_sweep.trial.setup import cached_data

    real = RealImages.of_data(cached_data(config.data))
    near = compared(real, config.evaluation, ())[1]
    usable = int(min((near.distances[:, 0] > 0).sum(), (near.flips[:, 0] > 0).sum()))  # the others are copies
    many = len(real.heldout) >= 6 and len(real.train) >= 4
    return smallest_quantile(usable), list(config.evaluation.extras) if many else ["kid"]


def _section(keys: dict[str, Any]) -> str:
    """Dotted keys of one section in YAML, on a line."""
    return "{" + ", ".join(f"{k.partition('.')[2]}: {json.dumps(v, ensure_ascii=False)}" for k, v in keys.items()) + "}"


def _two_digits(count: float) -> int:
    """The number with zeros after its first two digits."""
    text = str(int(count))
    return int(text[:2] + "0" * (len(text) - 2))
