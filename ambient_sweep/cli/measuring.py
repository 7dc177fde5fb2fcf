"""Measuring: any three folders of images, and checkpoints."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ambient_sweep.cli.group import commands
from ambient_sweep.cli.printing import (
    MOVED,
    PATH,
    RUN,
    as_json,
    new_folder_option,
    out_option,
    overrides_argument,
    tell,
    terminal,
    trust_option,
)
from ambient_sweep.config import build_config, dump, parse_overrides
from ambient_sweep.text import sampled

if TYPE_CHECKING:
    from ambient_sweep.config import DataConfig, EvaluationConfig
    from ambient_sweep.data.evaluation_set import ImageSet
    from ambient_sweep.evaluation.evaluator import Report, Row

KEYS = (
    "evaluation.", "data.source", "data.image_column", "data.range", "data.split", "data.group_",
    "data.train_size", "data.heldout_size", "data.on_corrupt",
)  # fmt: skip
without_option = click.option("--without", multiple=True, metavar="MEASURE", help="Leave a measure out; repeatable.")


@commands.command()
@click.option(
    "--generated", type=PATH, multiple=True, required=True, help="Generated images; repeatable, one per seed."
)
@click.option("--train", type=PATH, required=True, help="The images the model was trained on, without noise.")
@click.option("--heldout", type=PATH, required=True, help="Images of the same kind that it never saw.")
@overrides_argument
@click.option("--size", type=click.IntRange(4, 1024), help="Take the central square of every image, resized by area.")
@click.option("--channels", type=click.Choice(["1", "3"]), help="Make all images grey, or RGB.")
@without_option
@new_folder_option("--pictures", help="New or empty folder for nearest.png and similarity-ENCODER.png.")
@out_option
@trust_option
@as_json
def measure(
    generated: tuple[Path, ...], train: Path, heldout: Path, overrides: tuple[str, ...], size: int | None,
    channels: str | None, without: tuple[str, ...], pictures: Path | None, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure generated images: how good they are, and how much of the training set they reproduce.

    Images of any model: a folder, a zip file, a Parquet file or a folder of them, an .npy or .npz file, CIFAR-10's binary
    files, or a store of `prepare`. Where --train and --heldout give one place, they share it by its split. A GPU is used
    where torch finds one.

    KEY=VALUE are evaluation.* keys, as in evaluation.distances=[fid], where fidelity is the first distance and similarity
    that of fidelity, unless given; and data.* keys by which training reads and splits --train and --heldout, as
    data.range=[0,4095]. docs/metrics.md describes each measure and when it fails.
    """
    import torch

    from ambient_sweep.data.evaluation_set import read_sets
    from ambient_sweep.evaluation.evaluator import FullEvaluation
    from ambient_sweep.evaluation.reference import RealImages
    from ambient_sweep.evaluation.required_images import all_measures

    (config, data), device = _configs(overrides), "cuda" if torch.cuda.is_available() else "cpu"
    names = all_measures(config, without)
    places = [*(("--generated", path) for path in generated), ("--train", train), ("--heldout", heldout)]
    with terminal(as_json):
        *sets, trained, unseen = read_sets(
            places, data, size=size, channels=None if channels is None else int(channels)
        )
        real = RealImages.of(trained, unseen)
        full = FullEvaluation(real, config, names, device)
        reports = [full.report(each) for each in sets]
    dropped = len(unseen) - len(real.heldout)
    lines: list[str] = [f"{each.where}: {len(each)} images" for each in (*sets, trained, real.heldout)]
    notes = [f"{each.where}: {note}" for each in (*sets, trained, unseen) for note in each.notes]
    lines += notes
    lines += [f"{dropped} held-out images are training images too and were left out"] if dropped else []
    for each, report in zip(sets, reports, strict=True):
        lines += ["", each.where, *_table(report.rows)]
    lines += [f"warning: {line}" for line in dict.fromkeys(line for report in reports for line in report.warnings)]
    document = {
        "generated": [_dump(each, report) for each, report in zip(sets, reports, strict=True)],
        "train": _about(trained), "heldout": _about(real.heldout), "dropped": dropped, "shape": list(trained.shape),
        "evaluation": config.model_dump(mode="json"), "without": sorted(without), "notes": notes,
    }  # fmt: skip
    if pictures is not None:
        _draw(pictures, trained, sets, reports)
    tell(document, lines, as_json, out)


@commands.command()
@click.argument("checkpoint", type=RUN)
@overrides_argument
@without_option
@new_folder_option("--attack", metavar="DIR", help="Try to extract training images; pictures go to DIR.")
@click.option(
    "--attack-images", type=click.IntRange(99, 100_000), default=200,  # extraction.LEAST
    help="Training images that are attacked, and as many held-out ones.",
)  # fmt: skip
@out_option
@trust_option
@as_json
def evaluate(
    checkpoint: Path, overrides: tuple[str, ...], without: tuple[str, ...], attack: Path | None, attack_images: int,
    out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure CHECKPOINT by its config's evaluation and more: a folder runs/NAME/trials/ID/checkpoints/images-N, a trial
    (its longest training) or a run (what `best` picks).

    As many samples are drawn as by the sweep's confirmation. KEY=VALUE may change evaluation.*, sampling.*, resources.*,
    data.path and model.base. Beside each value stands what real images get. The denoising gap needs no samples: by how much
    the model denoises training images better than held-out ones.
    """
    from ambient_sweep.cli.places import find_checkpoint
    from ambient_sweep.results.model_card import measured
    from ambient_sweep.sweep.folder import check_within
    from ambient_sweep.training.state import load_model
    from ambient_sweep.trial.checkpoint_evaluation import evaluate_checkpoint, show_attack
    from ambient_sweep.trial.retention import is_of_trial

    changes = parse_overrides(overrides, ("evaluation.", "sampling.", "resources.", *MOVED))
    checkpoint, _ = find_checkpoint(checkpoint, terminal(as_json).line)
    if attack is not None and is_of_trial(checkpoint):
        check_within(checkpoint.parents[1])  # to which the attack is added
    moved = {key: value for key, value in changes.items() if key in MOVED}
    model, config, meta = load_model(checkpoint, moved=moved)
    samples = max([config.evaluation.samples, *(each.samples for each in measured(checkpoint, meta["images"]))])
    config = build_config(dump(config), {"evaluation.samples": samples}, changes, where=str(checkpoint))
    with terminal(as_json):
        found = evaluate_checkpoint(
            model, config, meta["images"], meta["data_fingerprint"],
            without=without, attack_folder=attack, attack_images=attack_images,
        )  # fmt: skip
    lines = [f"{checkpoint}: {meta['images']:,} images trained"]
    for endpoint, report in found.samples.items():
        lines += [f"{sampled(endpoint)}, seed {config.evaluation.seed}:", *_table(report.rows)]
    lines += ["of the model itself:", *_table(found.model)] if found.model else []
    lines += [f"attack: {line}" for line in found.attack]
    lines += [f"warning: {line}" for line in found.warnings]
    document = {
        "checkpoint": str(checkpoint), "images": meta["images"], "seed": config.evaluation.seed,
        "measures": {at: {row.name: row.dump() for row in report.rows} for at, report in found.samples.items()},
        "model": {row.name: row.dump() for row in found.model}, "attack": found.attack,
        "histograms": {at: report.histograms for at, report in found.samples.items()}, "warnings": found.warnings,
    }  # fmt: skip
    tell(document, lines, as_json, out)
    if attack is not None:
        show_attack(checkpoint, meta["images"], found, attack)


# -- options --------------------------------------------------------------------------------------------------------


def _configs(overrides: tuple[str, ...]) -> "tuple[EvaluationConfig, DataConfig]":
    """The evaluation section, by default with a small network that comes with its package, and how images are read."""
    from ambient_sweep.evaluation.required_images import with_similarity

    changes = parse_overrides(overrides, KEYS)
    base: dict[str, Any] = {"model.kind": "mlp", "evaluation.distances": ["fd_lite0@64"]}
    if "data.source" in changes:
        base["data.path"] = "--train"  # in place of which come those of the options
    distances = changes.get("evaluation.distances", base["evaluation.distances"])
    if isinstance(distances, list) and distances and isinstance(distances[0], str):
        base["evaluation.fidelity"] = distances[0]
    config = build_config(base, changes, where="measure")
    return with_similarity(config.evaluation), config.data


# -- printing -------------------------------------------------------------------------------------------------------


def _table(rows: "tuple[Row, ...]") -> list[str]:
    lines = [f"  {'measure':<22} {'value':>10}   {'95 %':<22} {'n':>7}   {'real images':>11}   encoder"]
    for row in rows:
        m = row.measure
        interval = "-" if m.low is None or m.high is None else f"[{m.low:.4g}, {m.high:.4g}]"
        null = "-" if row.null is None else f"{row.null.value:.4g}"
        if row.null is not None and row.kind == "fidelity" and row.null.n < m.n:
            null += f" (n={row.null.n})"
        lines.append(
            f"  {row.name:<22} {m.value:>10.4g}   {interval:<22} {m.n:>7}   {null:>11}   {m.encoder or 'pixels'}"
        )
    return lines


def _draw(folder: Path, train: "ImageSet", sets: "list[ImageSet]", reports: "list[Report]") -> None:
    """nearest.png, the samples nearest to training images above these, and the similarity histograms, per set."""
    import torch

    from ambient_sweep.evaluation.grids import image_grid
    from ambient_sweep.evaluation.memorization.similarity import histogram_picture

    folder.mkdir(parents=True, exist_ok=True)
    for number, (images, report) in enumerate(zip(sets, reports, strict=True)):
        suffix = f"-{number}" if len(sets) > 1 else ""
        mine, theirs = (each[:64] for each in report.nearest)
        pairs = torch.cat([images.rows(mine), train.rows(theirs)], dim=2) / 127.5 - 1
        (folder / f"nearest{suffix}.png").write_bytes(image_grid(pairs, 16))
        for name, histograms in report.histograms.items():
            (folder / f"similarity-{name}{suffix}.png").write_bytes(histogram_picture(histograms, name))


def _about(images: "ImageSet") -> dict[str, Any]:
    return {"where": images.where, "n": len(images), "fingerprint": images.fingerprint}


def _dump(images: "ImageSet", report: "Report") -> dict[str, Any]:
    return {
        **_about(images), "measures": [row.dump() for row in report.rows],
        "histograms": report.histograms, "warnings": list(report.warnings),
    }  # fmt: skip
