"""Single models: train, sample, evaluate, average."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ambient_sweep.cli.group import commands
from ambient_sweep.cli.printing import as_json, echo_to, overrides_argument, storage_option, tell
from ambient_sweep.config import load_config, parse_overrides
from ambient_sweep.errors import UserError


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@overrides_argument
@storage_option
@click.option("--name", help="Name of the run; by default that of FILE.")
@as_json
def train(file: Path, overrides: tuple[str, ...], storage: Path, name: str | None, as_json: bool) -> None:
    """Train and evaluate the one config in FILE, such as `best` writes; called again, it goes on where it stopped."""
    from ambient_sweep.sweep.running.single import train_single

    config = load_config(file, parse_overrides(overrides))
    if name is not None and Path(name).name != name:
        raise UserError(f"--name: {name!r} cannot name a folder; use letters, digits and . _ - only")
    root = storage.expanduser().absolute() / (name or file.stem)
    record, evaluations = train_single(config, root, echo=echo_to(as_json))
    result = {
        "folder": str(root), "status": record.status, "images": record.images_done,
        "evaluations": [asdict(evaluation) for evaluation in evaluations],
    }  # fmt: skip
    tell(result, [f"trained {record.images_done:,} images; all is in {root}"], as_json)


@commands.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(1, 1_000_000), default=64, show_default=True, help="Number of images.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the samples.")
@click.option("--endpoint", type=click.Choice(["zero", "observed"]), help="By default the one the model was made for.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New or empty folder for the PNG files.")
@as_json
def sample(checkpoint: Path, count: int, seed: int, endpoint: str | None, out: Path, as_json: bool) -> None:
    """Draw images from CHECKPOINT, a folder runs/NAME/trials/ID/checkpoints/images-N."""
    from ambient_sweep.training.state import load_model
    from ambient_sweep.trial.retention import check_kept
    from ambient_sweep.trial.samples import generate, write_images
    from ambient_sweep.trial.setup import device_of, use_threads

    check_kept(checkpoint)
    model, config, meta = load_model(checkpoint)
    chosen = endpoint or config.main_endpoint()
    if chosen not in config.endpoints():
        raise UserError(f"--endpoint: this model has {', '.join(config.endpoints())} only")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: {out} already exists and is not an empty folder")
    use_threads(config)
    device = device_of(config)
    channels, height, width = meta["shape"]
    shape, counts = (channels, height, width), tuple(meta.get("class_counts", ()))
    images = generate(config, model.to(device), shape, count, seed, device=device, counts=counts)[chosen]
    try:
        write_images(images, out)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written ({error.strerror})") from None
    result = {"checkpoint": str(checkpoint), "endpoint": chosen, "seed": seed, "count": count, "out": str(out)}
    tell(result, [f"{count} images in {out}, sampled to {chosen}, seed {seed}"], as_json)


@commands.command()
@click.argument("trial_folder", type=click.Path(path_type=Path))
@click.option(
    "--length", "lengths", type=float, multiple=True, required=True,
    help="Length of the average (EDM2's sigma_rel), 0.005 to 0.28; several with --evaluate.",
)  # fmt: skip
@click.option("--images", type=click.IntRange(1), help="The average after so many images; by default after the last.")
@click.option("--evaluate", "by_evaluation", is_flag=True, help="Measure every length, and keep the best in fidelity.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New or empty folder for the checkpoint.")
@as_json
def average(
    trial_folder: Path, lengths: tuple[float, ...], images: int | None, by_evaluation: bool, out: Path, as_json: bool
) -> None:
    """Rebuild the weights' average of any length from the snapshots in TRIAL_FOLDER, runs/NAME/trials/ID; no training.

    Needs a trial of ema.kind=power. Writes a checkpoint that `sample` and `evaluate` take.
    """
    from ambient_sweep.training.posthoc_ema import as_denoiser, reconstruct, save_reconstruction
    from ambient_sweep.trial.retention import check_kept

    if len(lengths) > 1 and not by_evaluation:
        raise UserError("--length: several lengths need --evaluate, which chooses among them; or give one")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: {out} already exists and is not an empty folder")
    check_kept(trial_folder)
    rows: list[dict[str, Any]] = []
    best: dict[str, Any] = {}
    for length in dict.fromkeys(lengths):
        tensors, rebuilt = reconstruct(trial_folder, length, images)
        row: dict[str, Any] = {"length": length, "residual": rebuilt.residual, "poor": rebuilt.poor}
        if by_evaluation:
            from ambient_sweep.trial.checkpoint_evaluation import evaluate_model

            config, fingerprint = rebuilt.config, rebuilt.notes["data_fingerprint"]
            measures = evaluate_model(as_denoiser(tensors, rebuilt), config, fingerprint)[config.main_endpoint()]
            row |= {"endpoint": config.main_endpoint(), "measures": {name: vars(m) for name, m in measures.items()}}
            row["fidelity"] = measures[config.evaluation.fidelity].value
        rows.append(row)
        if not best or row["fidelity"] < best["row"]["fidelity"]:
            best = {"row": row, "tensors": tensors, "rebuilt": rebuilt}
    save_reconstruction(out.absolute(), best["tensors"], best["rebuilt"])
    tell(
        {"trial": str(trial_folder), "images": best["rebuilt"].images, "snapshots": best["rebuilt"].snapshots,
         "lengths": rows, "length": best["row"]["length"], "out": str(out)},
        _average_lines(trial_folder, best["rebuilt"], rows, out),
        as_json,
    )  # fmt: skip


def _average_lines(trial_folder: Path, best: Any, rows: list[dict[str, Any]], out: Path) -> list[str]:
    """The table that `average` prints; `best` is what it rebuilt and kept."""
    lines = [f"{trial_folder}: {best.snapshots} snapshots up to {best.images:,} images"]
    if "measures" in rows[0]:
        e = best.config.evaluation
        lines[0] += f"; sampled to {rows[0]['endpoint']}, seed {e.seed}"
        lines.append(f"{'length':<8} {'residual':>9} {e.fidelity:>14}   {'95 %':<22} {e.memorization:>12}")
        for row in rows:
            m = row["measures"][e.fidelity]
            interval = f"[{m['low']:.4g}, {m['high']:.4g}]" if m["low"] is not None else "-"
            memorization = row["measures"][e.memorization]["value"]
            lines.append(
                f"{row['length']:<8g} {row['residual']:>9.1e} {m['value']:>14.4f}   {interval:<22} {memorization:>12.4f}"
            )
        lines.append(f"best by {e.fidelity}: length {best.length:g}")
    else:
        lines.append(f"length {best.length:g}: residual {best.residual:.1e}")
    for row in rows:
        if row["poor"]:
            hint = "train with more ema.snapshots, or with ema.tracked nearer to it"
            lines.append(f"length {row['length']:g} is poorly represented (residual {row['residual']:.2f}): {hint}")
    return [*lines, f"checkpoint: {out}"]
