"""The command line: one command per verb. Heavy imports happen inside the verbs, so that --help is instant.

Exit codes: 0 done, 1 failed, 2 bad input. Every error is one line on standard error.
"""

import json
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ambient_sweep import __version__
from ambient_sweep.config import build_config, dump, knobs, load_config, parse_overrides, read_yaml, write_config
from ambient_sweep.errors import AmbientSweepError, UserError

F = TypeVar("F", bound=Callable[..., Any])


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an orderly end, as for Ctrl-C
    try:
        cli.main(standalone_mode=False)
    except AmbientSweepError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as error:
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        _fail(error.format_message() + hint, 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; `train` and `resume` go on from the last saved state", 1)
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)


def _fail(message: str, code: int) -> None:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)


as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
storage_option = click.option(
    "--storage", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
    help="Folder of all runs; on a cluster an absolute path that every node sees.",
)  # fmt: skip
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
view_option = click.option(
    "--view", type=click.Choice(["checkpoints", "full-length", "per-trial"]), default="checkpoints", show_default=True,
    help="Which evaluations compete: all, those at full length, or one per trial.",
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ambient-sweep")
def cli() -> None:
    """Find how much noise protects your training images, and what it costs.

    Trains many ambient diffusion models on a Ray cluster, measures the fidelity and the memorization of each, and hands
    over the frontier, the table behind it and the config to train for good.
    """


# -- sweeps ---------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@overrides_argument
@as_json
def validate(file: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check a sweep or a config FILE, every corner of its space included, without starting anything."""
    if "space" not in read_yaml(file):
        config = load_config(file, parse_overrides(overrides))
        lines = [f"{file}: a valid config of one training run, {config.training.images:,} images"]
        _tell({"kind": "config", "config": dump(config)}, lines, as_json)
        return
    from ambient_sweep.sweep.space import check_corners, load_sweep

    sweep = load_sweep(file, parse_overrides(overrides))
    corners = check_corners(sweep)
    fixed = sweep.fixed_trials()
    result = {
        "kind": "sweep",
        "name": sweep.name,
        "configs_checked": corners,
        "searched_trials": sweep.search.trials,
        "fixed_trials": [{"role": t.role, "label": t.label, "values": t.values} for t in fixed],
        "space": {key: distribution.dump() for key, distribution in sweep.space.items()},
    }
    names = ", ".join(f"{t.label} (seed {t.values.get('seed', sweep.base['seed'])})" for t in fixed)
    lines = [
        f"{file}: valid; {corners} configs checked: corners of the space, points, controls, baseline",
        f"{sweep.search.trials} searched trials over {', '.join(sweep.space)}",
        f"{len(fixed)} fixed trials: {names}",
    ]
    _tell(result, lines, as_json)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@overrides_argument
@storage_option
@click.option("--name", help="Name of the run; by default the sweep's.")
@as_json
def run(file: Path, overrides: tuple[str, ...], storage: Path, name: str | None, as_json: bool) -> None:
    """Run the sweep in FILE and write <storage>/<name>/: tables, frontier, report, checkpoints, TensorBoard events.

    KEY=VALUE changes the sweep's base or its search, as in training.images=50000 or search.trials=8. Runs on the cluster
    that RAY_ADDRESS names, as inside `ray job submit`, else on this machine.
    """
    from ambient_sweep.sweep.run import run_sweep
    from ambient_sweep.sweep.space import load_sweep

    changes = parse_overrides(overrides) | ({"name": name} if name else {})
    _summary(run_sweep(load_sweep(file, changes), storage, echo=_echo(as_json)), as_json)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@as_json
def resume(folder: Path, as_json: bool) -> None:
    """Go on with the sweep in FOLDER (<storage>/<name>): what was finished is kept."""
    from ambient_sweep.sweep.run import resume_sweep

    _summary(resume_sweep(folder, echo=_echo(as_json)), as_json)


@cli.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--rule", default="knee", show_default=True,
    help="knee; max-memorization=C: the best fidelity at memorization C or less; chebyshev=W: weight W on fidelity.",
)  # fmt: skip
@view_option
@click.option("--out", type=click.Path(path_type=Path), help="Write the config that `ambient-sweep train` takes.")
@as_json
def best(source: Path, rule: str, view: str, out: Path | None, as_json: bool) -> None:
    """Pick a config and its training length from SOURCE, a run's folder or its evaluations.parquet."""
    from ambient_sweep.results.select import best_config, select
    from ambient_sweep.results.table import read_table

    table = read_table(_evaluations_file(source))
    if "on_front" not in table.column_names:
        raise UserError(f"{source}: is no table of evaluations; give evaluations.parquet or the folder of a run")
    choice = select(table, rule, view)
    config = best_config(choice)
    row = choice.row
    lines = [f"{rule}: {choice.reason}", f"best       {_point(row)}"]
    if choice.runner_up is not None:
        lines.append(f"runner-up  {_point(choice.runner_up)}")
    lines.append(
        f"training length: {row['images']:,} of {config.training.images:,} images (training.stop={row['fraction']:g})"
    )
    if out is not None:
        _write_new(out, lambda path: write_config(config, path, f"{rule}: {choice.reason}\n{_point(row)}"))
        lines.append(f"config: {out}; train it again with `ambient-sweep train {out}`")
    result = {
        "rule": rule, "view": view, "reason": choice.reason, "best": row, "runner_up": choice.runner_up,
        "images": row["images"], "config": dump(config), "out": None if out is None else str(out),
    }  # fmt: skip
    _tell(result, lines, as_json)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@as_json
def report(folder: Path, as_json: bool) -> None:
    """Write tables, frontier.png, best.yaml and report.html of the run in FOLDER anew from its trials' records."""
    from ambient_sweep.sweep.run import summarize

    if not (folder / "trials").is_dir():
        raise UserError(f"{folder}: holds no trials; give the folder of a run, as in runs/digits")
    _summary(summarize(folder.absolute()), as_json)


# -- single models --------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@overrides_argument
@storage_option
@click.option("--name", help="Name of the run; by default that of FILE.")
@as_json
def train(file: Path, overrides: tuple[str, ...], storage: Path, name: str | None, as_json: bool) -> None:
    """Train and evaluate the one config in FILE, such as `best` writes; called again, it goes on where it stopped."""
    from ambient_sweep.sweep.single import train_single

    config = load_config(file, parse_overrides(overrides))
    if name is not None and Path(name).name != name:
        raise UserError(f"--name: {name!r} cannot name a folder; use letters, digits and . _ - only")
    root = storage.expanduser().absolute() / (name or file.stem)
    record, evaluations = train_single(config, root, echo=_echo(as_json))
    result = {
        "folder": str(root), "status": record.status, "images": record.images_done,
        "evaluations": [_evaluation(e) for e in evaluations],
    }  # fmt: skip
    _tell(result, [f"trained {record.images_done:,} images; all is in {root}"], as_json)


@cli.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(1, 1_000_000), default=64, show_default=True, help="Number of images.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the samples.")
@click.option("--endpoint", type=click.Choice(["zero", "observed"]), help="By default the one the model was made for.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New or empty folder for the PNG files.")
@as_json
def sample(checkpoint: Path, count: int, seed: int, endpoint: str | None, out: Path, as_json: bool) -> None:
    """Draw images from CHECKPOINT, a folder runs/NAME/trials/ID/checkpoints/images-N."""
    from ambient_sweep.results.images import write_images
    from ambient_sweep.training.state import load_model
    from ambient_sweep.trial import device_of, generate, use_threads

    model, config, meta = load_model(checkpoint)
    chosen = endpoint or config.main_endpoint()
    if chosen not in config.endpoints():
        raise UserError(f"--endpoint: this model has {', '.join(config.endpoints())} only")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: {out} is there already and is not an empty folder")
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
    _tell(result, [f"{count} images in {out}, sampled to {chosen}, seed {seed}"], as_json)


@cli.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@overrides_argument
@as_json
def evaluate(checkpoint: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Measure CHECKPOINT by its config's evaluation; KEY=VALUE may change evaluation.* and data.path."""
    from ambient_sweep.training.state import load_model
    from ambient_sweep.trial import evaluate_model

    changes = parse_overrides(overrides)
    for key in changes:
        if not (key.startswith(("evaluation.", "resources.")) or key == "data.path"):
            raise UserError(f"{key}: evaluate may change evaluation.*, resources.* and data.path only")
    model, config, meta = load_model(checkpoint)
    config = build_config(dump(config), changes, where=str(checkpoint))
    results = evaluate_model(model, config, meta["data_fingerprint"])
    lines = [f"{checkpoint}: {meta['images']:,} images trained"]
    for endpoint, measures in results.items():
        lines.append(f"sampled to {endpoint}, seed {config.evaluation.seed}:")
        for name, m in measures.items():
            lines.append(f"  {name:<14} {m.value:>10.4f}   95 % [{m.low:.4f}, {m.high:.4f}]   n={m.n}")
    values = {endpoint: {name: vars(m) for name, m in measures.items()} for endpoint, measures in results.items()}
    _tell(
        {"checkpoint": str(checkpoint), "images": meta["images"], "seed": config.evaluation.seed, "measures": values},
        lines,
        as_json,
    )


@cli.command()
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
    from ambient_sweep.training.rebuild import as_denoiser, rebuild, save_rebuilt

    if len(lengths) > 1 and not by_evaluation:
        raise UserError("--length: several lengths need --evaluate, which chooses among them; or give one")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: {out} is there already and is not an empty folder")
    rows: list[dict[str, Any]] = []
    best: dict[str, Any] = {}
    for length in dict.fromkeys(lengths):
        tensors, rebuilt = rebuild(trial_folder, length, images)
        row: dict[str, Any] = {"length": length, "residual": rebuilt.residual, "poor": rebuilt.poor}
        if by_evaluation:
            from ambient_sweep.trial import evaluate_model

            config, fingerprint = rebuilt.config, rebuilt.notes["data_fingerprint"]
            measures = evaluate_model(as_denoiser(tensors, rebuilt), config, fingerprint)[config.main_endpoint()]
            row |= {"endpoint": config.main_endpoint(), "measures": {name: vars(m) for name, m in measures.items()}}
            row["fidelity"] = measures[config.evaluation.fidelity].value
        rows.append(row)
        if not best or row["fidelity"] < best["row"]["fidelity"]:
            best = {"row": row, "tensors": tensors, "rebuilt": rebuilt}
    save_rebuilt(out.absolute(), best["tensors"], best["rebuilt"])
    _tell(
        {"trial": str(trial_folder), "images": best["rebuilt"].images, "snapshots": best["rebuilt"].snapshots,
         "lengths": rows, "length": best["row"]["length"], "out": str(out)},
        _average_lines(trial_folder, best["rebuilt"], rows, out),
        as_json,
    )  # fmt: skip


# -- images ---------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("out", type=click.Path(path_type=Path), required=False)
@overrides_argument
@click.option(
    "--observed-only", "sigma", type=click.FloatRange(0, 100, min_open=True), metavar="SIGMA",
    help="Write the noisy observations of the training images alone, at this level, and no clean image.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), help="Draw that noise as observed.seed does; by default in secret."
)
@click.option("--from", "origin", type=click.Path(path_type=Path), help="Take the images of this store of clean ones.")
@click.option("--drop-duplicates", is_flag=True, help="Leave out copies of training images, there and held out.")
@click.option(
    "--near", type=click.FloatRange(0, 1), default=0.1, show_default=True,
    help="Largest distance at which images count as near duplicates; 0: exact ones only.",
)  # fmt: skip
@click.option("--flips", is_flag=True, help="Count a mirrored copy as a copy.")
@click.option(
    "--verify", type=click.Path(path_type=Path), metavar="STORE", help="Only read STORE and check every byte."
)
@as_json
def prepare(
    out: Path | None, overrides: tuple[str, ...], sigma: float | None, seed: int | None, origin: Path | None,
    drop_duplicates: bool, near: float, flips: bool, verify: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Decode a set of images once into the new folder OUT, a store that training maps into memory.

    KEY=VALUE are data.* keys, as in data.source=folder data.path=photos data.image_size=64 data.channels=3.
    """
    from ambient_sweep.data.origin import store_keys
    from ambient_sweep.data.prepare import Options, summary
    from ambient_sweep.data.prepare import prepare as write
    from ambient_sweep.data.store import verify_store

    if verify is not None:
        if out is not None:
            raise UserError("--verify: reads a store and writes none; leave OUT out")
        info = verify_store(verify)
        _tell({"store": str(verify), **info.model_dump()}, [f"{verify}: whole", *summary(verify, info)], as_json)
        return
    if out is None or "=" in str(out):
        raise UserError("OUT: missing; give the new folder of the store before any KEY=VALUE")
    if seed is not None and sigma is None:
        raise UserError("--seed: is that of --observed-only; data.split_seed is that of the split")
    values = parse_overrides(overrides)
    allowed = ("data.train_size", "data.heldout_size") if origin else ("data.",)
    for key in values:
        if not key.startswith(allowed):
            raise UserError(f"{key}: prepare takes {' and '.join(allowed)}{'' if origin else '*'} only")
    if origin is None and values.get("data.source") == "store":
        raise UserError("data.source: to prepare from a store, give it as --from")
    config = build_config({"model.kind": "mlp"}, store_keys(origin) if origin else {}, values, where="prepare").data
    options = Options(sigma, seed, drop_duplicates, near, flips)
    try:
        info = write(out, config, options, _echo(as_json))
    except KeyboardInterrupt:
        raise AmbientSweepError(f"interrupted; nothing is left of {out}") from None
    _tell({"store": str(out), **info.model_dump()}, summary(out, info), as_json)


@cli.command(name="knobs")
@as_json
def knobs_command(as_json: bool) -> None:
    """List every config key with its default and what it does."""
    rows = {key: {"default": default, "help": field.description} for key, (field, default) in knobs().items()}
    lines = [f"{key:<28} {_short(row['default']):<24} {row['help']}" for key, row in rows.items()]
    _tell(rows, lines, as_json)


# -- printing -------------------------------------------------------------------------------------------------------


def _echo(as_json: bool) -> Callable[[str], None]:
    """Progress lines: on standard output, or on standard error where standard output is for JSON."""

    def echo(line: str) -> None:
        click.echo(line, err=as_json)
        (sys.stderr if as_json else sys.stdout).flush()

    return echo


def _tell(result: dict[str, Any], lines: list[str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_plain(result), indent=1, allow_nan=False, default=str))
    else:
        for line in lines:
            click.echo(line)


def _plain(tree: Any) -> Any:
    """Non-finite floats as null, mappings with string keys."""
    if isinstance(tree, dict):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _short(value: Any) -> str:
    return ", ".join(str(v) for v in value) if isinstance(value, tuple) else str(value)


def _point(row: dict[str, Any]) -> str:
    """One row of the evaluations table on a line."""
    return (
        f"trial {row['trial_id']} ({row['role']}), {row['objective.kind']} at sigma {row['observed.sigma']:.3g}, "
        f"{row['images']:,} images, sampled to {row['endpoint']}: {row['fidelity_measure']} {row['fidelity']:.4g}, "
        f"{row['memorization_measure']} {row['memorization']:.4g}"
    )


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


def _evaluation(record: Any) -> dict[str, Any]:
    return {
        "images": record.images, "fraction": record.fraction, "endpoint": record.endpoint,
        "checkpoint": record.checkpoint, "measures": {name: vars(m) for name, m in record.measures.items()},
    }  # fmt: skip


def _summary(summary: Any, as_json: bool) -> None:
    counts = ", ".join(f"{number} {status}" for status, number in summary.counts.items())
    lines = [f"trials: {counts}", "frontier:", *(f"  {_point(row)}" for row in summary.frontier)]
    lines += ["best: " + summary.best_reason, *([f"  {_point(summary.best)}"] if summary.best else [])]
    lines += [f"{name:<20} {path}" for name, path in summary.files.items()]
    lines.append(f"{'TensorBoard':<20} tensorboard --logdir {summary.root / 'trials'}")
    result = {
        "folder": str(summary.root), "trials": summary.counts, "frontier": summary.frontier, "best": summary.best,
        "reason": summary.best_reason, "files": {name: str(path) for name, path in summary.files.items()},
        "seconds": summary.seconds,
    }  # fmt: skip
    _tell(result, lines, as_json)


def _evaluations_file(source: Path) -> Path:
    return source / "evaluations.parquet" if source.is_dir() else source


def _write_new(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file that is not there yet, beside its place and then moved. Raises UserError where it cannot."""
    if path.exists():
        raise UserError(f"{path}: is there already; remove it or give another --out")
    part = path.with_name(f".{path.name}.part")
    try:
        write(part)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
