"""Single models: train, sample, evaluate, average."""

from dataclasses import asdict
from pathlib import Path

import click

from ambient_sweep.cli.group import commands
from ambient_sweep.cli.printing import (
    MOVED,
    PATH,
    RUN,
    Finite,
    as_json,
    name_option,
    new_folder_option,
    overrides_argument,
    storage_option,
    tell,
    terminal,
    trust_option,
)
from ambient_sweep.config import load_config, parse_overrides
from ambient_sweep.config.files import lasting_path
from ambient_sweep.errors import UserError
from ambient_sweep.text import sampled


@commands.command()
@click.argument("file", type=PATH)
@overrides_argument
@storage_option
@name_option
@trust_option
@as_json
def train(file: Path, overrides: tuple[str, ...], storage: Path, name: str | None, as_json: bool) -> None:
    """Train and evaluate the one config in FILE, such as `best` writes; called again, it continues where it stopped."""
    from ambient_sweep.sweep.single import train_single

    config = load_config(file, parse_overrides(overrides))
    root = lasting_path("--storage", storage) / (name or file.stem)
    with terminal(as_json) as screen:
        record, evaluations = train_single(config, root, echo=screen.line)
    result = {
        "folder": str(root), "status": record.status, "images": record.images_done,
        "evaluations": [asdict(evaluation) for evaluation in evaluations],
    }  # fmt: skip
    tell(result, [f"trained {record.images_done:,} images; all is in {root}"], as_json)


@commands.command()
@click.argument("checkpoint", type=RUN)
@overrides_argument
@click.option("--count", type=click.IntRange(1, 1_000_000), default=64, help="Number of images.")
@click.option("--seed", type=click.IntRange(0), default=1, help="Seed of the samples.")
@click.option(
    "--endpoint",
    type=click.Choice(["zero", "observed", "distilled"]),
    help="By default the one the model was made for.",
)
@new_folder_option("--out", required=True, help="New or empty folder for the PNG files.")
@as_json
def sample(
    checkpoint: Path, overrides: tuple[str, ...], count: int, seed: int, endpoint: str | None, out: Path, as_json: bool
) -> None:
    """Draw images from CHECKPOINT: a folder runs/NAME/trials/ID/checkpoints/images-N, a trial or a run.

    Of a trial, its longest training is taken; of a run, what `best` picks, at the endpoint that it picks. KEY=VALUE says
    where model.base and data.path of a latent model are now.
    """
    from ambient_sweep.cli.places import find_checkpoint
    from ambient_sweep.evaluation.decoding import coding
    from ambient_sweep.training.state import load_model
    from ambient_sweep.trial.samples import generate, write_images
    from ambient_sweep.trial.setup import use_device

    checkpoint, picked = find_checkpoint(checkpoint, terminal(as_json).line)
    model, config, meta = load_model(checkpoint, moved=parse_overrides(overrides, MOVED))
    chosen, endpoints = endpoint or picked or config.main_endpoint(meta["images"]), config.endpoints(meta["images"])
    if chosen not in endpoints:
        raise UserError(f"--endpoint: this model has no endpoint {chosen}; use {' or '.join(endpoints)}")
    device, shape, counts = use_device(config), tuple(meta["shape"]), tuple(meta.get("class_counts", ()))
    with terminal(as_json):
        made = generate(config, model.to(device), shape, count, seed, device=device, endpoints=endpoints, counts=counts)
    write_images(coding(config, device)[1](made[chosen]), out)
    result = {"checkpoint": str(checkpoint), "endpoint": chosen, "seed": seed, "count": count, "out": str(out)}
    tell(result, [f"{count} images in {out}, {sampled(chosen)}, seed {seed}"], as_json)


@commands.command()
@click.argument("trial_folder", type=RUN)
@click.option("--length", type=Finite(0.005, 0.28), required=True, help="Its length (EDM2's sigma_rel).")
@click.option("--images", type=click.IntRange(1), help="The average after so many images; by default after the last.")
@new_folder_option("--out", required=True, help="New or empty folder for the checkpoint.")
@as_json
def average(trial_folder: Path, length: float, images: int | None, out: Path, as_json: bool) -> None:
    """Rebuild the weights' average of any length from the snapshots in TRIAL_FOLDER, runs/NAME/trials/ID; no training.

    Needs a trial of ema.kind=power. Writes a checkpoint that `sample` and `evaluate` take.
    """
    from ambient_sweep.training.posthoc_ema import POOR, reconstruct, save_reconstruction
    from ambient_sweep.trial.retention import check_kept

    check_kept(trial_folder)
    tensors, rebuilt = reconstruct(trial_folder, length, images)
    save_reconstruction(out.absolute(), tensors, rebuilt)
    lines = [
        f"{trial_folder}: {rebuilt.snapshots} snapshots up to {rebuilt.images:,} images",
        f"length {length:g}: residual {rebuilt.residual:.1e}",
        f"checkpoint: {out}",
    ]
    if rebuilt.residual > POOR:
        lines[1] += "; poorly represented: train with more ema.snapshots, or with ema.tracked nearer to it"
    result = {
        "trial": str(trial_folder), "images": rebuilt.images, "snapshots": rebuilt.snapshots, "length": length,
        "residual": rebuilt.residual, "out": str(out),
    }  # fmt: skip
    tell(result, lines, as_json)
