"""init: writes a first sweep file for a set of images."""

import re
import shutil
from pathlib import Path
from typing import Any

import click

from ambient_sweep.cli.group import commands
from ambient_sweep.cli.printing import PATH, as_json, check_new, new_file_option, tell
from ambient_sweep.config import Config, build_config
from ambient_sweep.errors import UserError
from ambient_sweep.storage import write_atomic
from ambient_sweep.text import command, counted, duration

NIGHT = 8 * 3600  # seconds that the sweep may take
TRAININGS = 10  # whole ones that it pays for, the baseline among them
TRIALS = 40  # searched, unless the disk is too small
EPOCHS = 1000  # of a training at most: copying sets in long before
PRESETS = {  # by the smallest side that they are for; the first that fits is taken
    "cpu": {48: "unet-64-small", 17: "unet-32-small", 1: "unet-8"},
    "cuda": {192: "unet-256", 48: "unet-64", 17: "unet-32", 1: "unet-8"},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "cpu": {"resources.cpus": 1, "training.batch_size": 64, "evaluation.samples": 200},
    "cuda": {"resources.gpus": 1, "training.batch_size": 256, "evaluation.samples": 1000},
}
MEASURES = {"evaluation.distances": ["fd_lite0@32", "fd_pixels"], "evaluation.fidelity": "fd_lite0@32"}


@commands.command()
@click.argument("images", type=PATH)
@new_file_option("New file for the sweep; by default named after IMAGES.")
@as_json
def init(images: Path, out: Path | None, as_json: bool) -> None:
    """Write a commented sweep file for IMAGES, a store or a folder of images, to fit them and this machine.

    Trains a few steps first, so that the sweep takes a night at most.
    """
    import torch
    from jinja2 import StrictUndefined, Template

    from ambient_sweep.evaluation.memorization.copies import smallest_quantile
    from ambient_sweep.evaluation.reference import RealImages
    from ambient_sweep.sweep.checks.dry_run import measure_pace
    from ambient_sweep.sweep.running.preflight import concurrent_trials, stage_bytes, this_machine, trial_bytes
    from ambient_sweep.trial.setup import cached_data, check_evaluation

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", (out or images.absolute()).stem).strip("-._")[:100] or "sweep"
    out = out or Path(f"{name}.yaml")
    check_new("--out", out)
    keys, kind = _data_keys(images), "cuda" if torch.cuda.is_available() else "cpu"
    data, (node, *_) = cached_data(build_config({"model.kind": "mlp"}, keys).data), this_machine()
    quantile = max(0.01, smallest_quantile(len(RealImages.of_data(data).heldout)))
    settings = SETTINGS[kind] | {"evaluation.quantile": quantile}
    config = _with_preset(keys | settings | MEASURES, PRESETS[kind])
    check_evaluation(data, config.evaluation)
    trials, pace = concurrent_trials([node], config.resources), measure_pace(config, data)
    evaluations, speed = pace.evaluation(config), config.length / pace.training(config)
    affordable = (NIGHT * trials / TRAININGS - evaluations) * speed
    batch = config.training.batch_size
    most = min(max(affordable, 100 * batch), max(EPOCHS * len(data.train), 1000 * batch))
    length = int(float(f"{most:.1e}"))  # two digits, then zeros
    seconds = TRAININGS * (length / speed + evaluations) / trials
    room = shutil.disk_usage(Path.cwd()).free / 2 / (trial_bytes(config) + stage_bytes(config))
    device = f"{counted(int(node.cpus), 'CPU core')}, {counted(int(node.gpus), 'GPU') if node.gpus else 'no GPU'}"
    sigma_data = max(0.05, round(float(next(data.train.blocks(1000)).std()), 2))
    template = Path(__file__).with_name("first_sweep.yaml").read_text(encoding="utf-8")
    text = Template(template, undefined=StrictUndefined).render(
        command="\n# ".join(command("run", out).splitlines()),
        name=name, keys=keys, data=data, config=config, sigma_data=sigma_data, images=length,
        budget=(TRAININGS - 1) * length, searched=int(min(TRIALS, max(TRAININGS, room))),
        time=duration(seconds), device=device, speed=speed, trials=counted(trials, "trial"),
    )  # fmt: skip
    write_atomic(out, f"{text}\n".encode())
    lines = [
        f"{out}: {config.model.preset} for {counted(len(data.train), 'training image')}; it takes about {duration(seconds)}",
        f"read it, then start it with `{command('run', out)}`",
    ]
    tell({"out": str(out), "expected_seconds": seconds, "preset": config.model.preset}, lines, as_json)


def _data_keys(images: Path) -> dict[str, Any]:
    """The data.* keys for a store or a folder. Raises UserError for anything else."""
    from ambient_sweep.data.sources import open_source
    from ambient_sweep.data.sources.decode import read_header
    from ambient_sweep.data.store import INFO_FILE, read_info, store_keys

    path = images.absolute()
    if (path / INFO_FILE).exists():
        info = read_info(path)
        if info.observed is not None:
            raise UserError(f"{images}: holds noisy observations only; give the store of the clean images")
        if info.latent is not None:
            raise UserError(f"{images}: holds latents; begin with search_spaces/sdxl_lora.yaml (docs/latent.md)")
        return store_keys(path, info)
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


def _with_preset(values: dict[str, Any], presets: dict[int, str]) -> Config:
    """The config with the first preset that fits these images. Raises UserError where none does."""
    side = values["data.image_size"]
    for least, name in presets.items():
        try:
            if side >= least:
                return build_config(values | {"model.preset": name})
        except UserError:
            continue
    raise UserError(f"data.image_size: no network halves a side of {side}; prepare the images with a multiple of 4")
