"""Sweeps: validate, run, resume, status, best, report, tensorboard."""

import shutil
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import click

from ambient_sweep.cli.group import commands
from ambient_sweep.cli.jobs import address_option, run_of_job
from ambient_sweep.cli.printing import (
    PATH,
    RUN,
    as_json,
    name_option,
    new_file_option,
    overrides_argument,
    storage_option,
    tell,
    tell_summary,
    terminal,
    trust_option,
)
from ambient_sweep.config import dump, load_config, parse_overrides, read_yaml
from ambient_sweep.errors import UserError, errors_of
from ambient_sweep.sweep.space import file as sweep_file
from ambient_sweep.sweep.space.validation import check_space
from ambient_sweep.text import command, counted, sampled

OTHERS = 5  # of the frontier, that `best` says why it did not pick
SHAPE = "\n\n".join(f"\b\n{part}" for part in (sweep_file.__doc__ or "").split("\n\n"))  # of a sweep file, unwrapped


@commands.command(epilog=SHAPE)
@click.argument("file", type=PATH)
@overrides_argument
@trust_option
@as_json
def validate(file: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check the sweep or config in FILE, its images and every corner of its search space, without starting anything.

    Refuses what `run` and `train` would refuse, and times a few training steps to say how long it takes.
    """
    from ambient_sweep.sweep.checks.dry_run import check_single, check_sweep
    from ambient_sweep.sweep.search.samplers import try_sampler
    from ambient_sweep.sweep.tracking import check_tracker

    if sweep_file.is_config(read_yaml(file)):
        config = load_config(file, parse_overrides(overrides))
        with errors_of(file):
            notes = check_single(config)
        lines = [f"{file}: a valid config of one training run, {config.training.images:,} images", *notes]
        tell({"kind": "config", "config": dump(config), "notes": notes}, lines, as_json)
        return
    sweep = sweep_file.load_sweep(file, parse_overrides(overrides))
    configs = check_space(sweep)
    check_tracker(sweep)
    with errors_of(file):
        try_sampler(sweep.space, sweep.search)
        notes = check_sweep(sweep, configs)
    fixed, searched = sweep.fixed_trials(), int(min(sweep.trials, sweep.size()))
    within = f", within {sweep.search.images:,} images" if sweep.search.images else ""
    result = {
        "kind": "sweep", "name": sweep.name, "configs_checked": len(configs), "searched_trials": searched,
        "fixed_trials": list(map(vars, fixed)), "notes": notes,
    }  # fmt: skip
    lines = [
        f"{file}: valid; {len(configs):,} configs checked: corners of the space, points, controls, baseline",
        f"{counted(searched, 'searched trial')} over {', '.join(sweep.space)}{within}",
        f"{counted(len(fixed), 'fixed trial')}: {', '.join(trial.name for trial in fixed) or 'none'}",
        *notes,
    ]
    tell(result, lines, as_json)


@commands.command(epilog=SHAPE)
@click.argument("file", type=PATH)
@overrides_argument
@storage_option
@name_option
@click.option(
    "--from", "earlier", type=RUN, help="A run whose frontier is tried first, as far as it lies in the space."
)
@trust_option
@as_json
def run(
    file: Path, overrides: tuple[str, ...], storage: Path, name: str | None, earlier: Path | None, as_json: bool
) -> None:
    """Run the sweep in FILE and write tables, frontier, report, checkpoints and TensorBoard events to <storage>/<name>.

    KEY=VALUE changes the sweep's base or its search, as in training.images=50000 or search.trials=8. Runs on the cluster
    in RAY_ADDRESS, which `ray job submit` sets, or else on this machine.
    """
    from ambient_sweep.cli.places import find_place
    from ambient_sweep.results.frontier.candidates import frontier
    from ambient_sweep.results.frontier.select import read_candidates
    from ambient_sweep.results.tables.parquet import EVALUATIONS_FILE
    from ambient_sweep.sweep.run import run_sweep

    changes = parse_overrides(overrides) | ({"name": name} if name else {})
    sweep = sweep_file.load_sweep(file, changes)
    if earlier is not None:
        table = read_candidates(earlier if earlier.suffix == ".parquet" else find_place(earlier)[0] / EVALUATIONS_FILE)
        sweep = sweep_file.with_points(sweep, frontier(table).to_pylist())
    with terminal(as_json) as screen:
        summary = run_sweep(sweep, storage, echo=screen.line)
    tell_summary(summary, as_json)


@commands.command()
@click.argument("folder", type=RUN)
@overrides_argument
@trust_option
@as_json
def resume(folder: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Continue the sweep in FOLDER (<storage>/<name>); finished trials are kept.

    KEY=VALUE changes keys of search.* and confirm.*: search.trials=40 extends a finished sweep. Ranges can be widened:
    'space.observed.sigma={uniform: [0.1, 0.8]}'. model.base=FOLDER says where the same base lies now.
    """
    from ambient_sweep.sweep.run import resume_sweep

    with terminal(as_json) as screen:
        summary = resume_sweep(folder, parse_overrides(overrides), echo=screen.line)
    tell_summary(summary, as_json)


@commands.command()
@click.argument("which", metavar="FOLDER|JOB", type=RUN)
@address_option
@as_json
def status(which: Path, address: str, as_json: bool) -> None:
    """Show how the sweep in FOLDER (<storage>/<name>) stands, by its files: while it runs, on any machine, and later.

    JOB, the id that `submit` printed, stands for the folder that it writes.
    """
    from ambient_sweep.sweep.folder import sweep_folder
    from ambient_sweep.sweep.standing import read_standing

    root = sweep_folder(which if which.exists() else run_of_job(str(which), address))
    standing, state, said = read_standing(root)
    lines = [f"{root}: {said}", *standing.lines(shutil.get_terminal_size().columns)]
    tell({"folder": str(root), "state": state, **asdict(standing)}, lines, as_json)


@commands.command()
@click.argument("source", type=RUN)
@click.option(
    "--rule", default="knee",
    help="knee; max-memorization=C: best fidelity at memorization C or less; max-fidelity=F: least memorization at F or "
    "less; chebyshev=W1,W2: weights of fidelity and memorization.",
)  # fmt: skip
@new_file_option("New file for the config, which `ambient-sweep train` reads.")
@as_json
def best(source: Path, rule: str, out: Path | None, as_json: bool) -> None:
    """Pick a config and its training length from SOURCE: a run, its evaluations.parquet, a trial or a checkpoint."""
    from ambient_sweep.cli.places import find_place
    from ambient_sweep.results.frontier.rival import what_noise_buys
    from ambient_sweep.results.frontier.select import (
        best_config,
        complete,
        point,
        read_candidates,
        select,
        untouched_line,
        write_best,
    )
    from ambient_sweep.results.tables.parquet import EVALUATIONS_FILE

    root, meant = (source.parent, source.parent) if source.suffix == ".parquet" else find_place(source)
    file = source if source.suffix == ".parquet" else root / EVALUATIONS_FILE
    table = read_candidates(file, "" if meant == root else meant.relative_to(root).as_posix())
    choice = complete(select(table, rule), file)
    config = best_config(choice)
    row = choice.row
    checkpoint = root / row["checkpoint"]
    recipe = "its recipe was trained once: how other seeds do is known after `resume` with confirm.seeds=3"
    if row["runs"] > 1:
        means = (f"{row[f'{name}_mean']:.4g} +- {row[f'{name}_error']:.2g}" for name in ("fidelity", "memorization"))
        recipe = f"its recipe over {row['runs']} training runs, mean and standard error: {' and '.join(means)}"
    missing = "not kept (search.keep=frontier); train it again from the config that --out writes"
    lines = [
        f"{rule}: {choice.reason}",
        f"best       {point(row)}",
        f"           measured on {row['samples']:,} samples, which did not take part in the choice"
        if row["evaluation_seed"] > row["evaluation.seed"] + 1
        else f"           measured on {row['samples']:,} samples, by which it was chosen: luck makes it look better",
        recipe,
        *(
            f"not trial {other['trial_id']} after {other['images']:,} images, {sampled(other['endpoint'])}: {why}"
            for other, why in choice.others[:OTHERS]
        ),
        *filter(None, (what_noise_buys(table, choice), untouched_line(table))),
        f"training length: {row['images']:,} of {config.training.images:,} images (training.stop={row['fraction']:g})",
        f"checkpoint: {checkpoint if checkpoint.exists() else missing}",
    ]
    lines[:0] = [f"warning: {text}" for text in (choice.warning, row["problem"]) if text]
    if checkpoint.exists():
        lines.append(f"samples like these: `{command('sample', checkpoint, '--endpoint', row['endpoint'])}`")
    if out is not None:
        write_best(choice, rule, root.name, out)
        lines.append(f"config: {out}; train it again with `{command('train', out)}`")
    result = {
        "rule": rule, "reason": choice.reason, "warning": choice.warning, "best": row,
        "others": [{"row": other, "why": why} for other, why in choice.others],
        "images": row["images"], "config": dump(config), "out": None if out is None else str(out),
    }  # fmt: skip
    tell(result, lines, as_json)


@commands.command()
@click.argument("folder", type=RUN)
@trust_option
@as_json
def report(folder: Path, as_json: bool) -> None:
    """Write tables, pictures, best.yaml and report.html of the run in FOLDER again, from its trials' records."""
    from ambient_sweep.cli.places import find_place
    from ambient_sweep.sweep.folder import check_within
    from ambient_sweep.sweep.run import summarize

    root = find_place(folder)[0]
    check_within(root)
    tell_summary(summarize(root), as_json)


@commands.command()
@click.argument("folder", type=RUN)
@click.option("--port", type=click.IntRange(0, 65535), help="By default 6006 or the next free one; 0: any free one.")
def tensorboard(folder: Path, port: int | None) -> None:
    """Show FOLDER, a run or one of its trials, in TensorBoard, on this machine only, until Ctrl-C.

    HPARAMS lists every trial with both objectives, searched keys first; IMAGES shows samples above their nearest training
    images, denoised observations, attacks and the frontier.
    """
    from tensorboard import program

    from ambient_sweep.cli.places import find_place
    from ambient_sweep.object_store import fetch_folder, with_urls

    shown = folder if (folder / sweep_file.SWEEP_FILE).is_file() else find_place(folder)[1]
    fetch_folder(shown, "/events.*")
    server = program.TensorBoard()
    server.configure(logdir=str(shown), host="127.0.0.1", port=port)
    try:
        url = server.launch()
    except program.TensorBoardServerException as error:
        raise UserError(f"--port: {error.msg}; give another") from None
    click.echo(f"TensorBoard on {with_urls(str(shown))}: {url} (Ctrl-C ends it)")
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
