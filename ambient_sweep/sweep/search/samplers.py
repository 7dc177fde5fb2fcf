"""Samplers by name: the package's own, and those of Optuna that take two objectives."""

import inspect
import warnings
from typing import Any

from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from ambient_sweep.config import check_keys
from ambient_sweep.config.values import did_you_mean
from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.search.study import Space, StudyRecord, open_study
from ambient_sweep.sweep.search.tpe import GroupedTPESampler
from ambient_sweep.sweep.space.definition import Search

GRID = "grid"  # every config of a finite space in turn, enqueued in the study: no sampler is asked
NAMES: dict[str, type[BaseSampler]] = {
    "tpe": GroupedTPESampler,
    "random": GroupedTPESampler,
    GRID: GroupedTPESampler,
    "sobol": QMCSampler,
    "nsga2": NSGAIISampler,
    "gp": GPSampler,
    **{
        kind.__name__: kind
        for kind in (TPESampler, NSGAIISampler, NSGAIIISampler, GPSampler, QMCSampler, RandomSampler)
    },
}
STARTUP = 10  # random draws of a sampler that is tried, at most


def build_sampler(search: Search, proposed: int = 0) -> BaseSampler:
    """The sampler that `search.sampler` names. `proposed`: trials in the study already, which a new seed must not repeat.

    Raises UserError for an unknown name and for arguments that the sampler refuses.
    """
    kind = NAMES.get(search.sampler)
    if kind is None:
        near = did_you_mean(search.sampler, NAMES, f"choose one of {', '.join(NAMES)}")
        raise UserError(f"search.sampler: unknown sampler {search.sampler!r}; {near}")
    known = inspect.signature(kind).parameters
    evenly = search.sampler in ("random", GRID)
    takes = list(known) if not evenly else []
    if "seed" in search.sampler_args:
        raise UserError("search.sampler_args: seed: give search.seed instead")
    what = f"{search.sampler} takes {', '.join(takes) or 'no arguments'}"
    check_keys(search.sampler_args, "search.sampler_args", takes, what)
    for key, value in search.sampler_args.items():
        if str(known[key].annotation).startswith("bool") and not isinstance(value, bool | None):  # Optuna's are text
            raise UserError(f"search.sampler_args.{key}: expected true or false, not {value!r}")
    own = kind is GroupedTPESampler  # its draws depend on the seed and the position
    seed = search.seed if own else (search.seed + 1_000_003 * proposed) % 2**31
    defaults: dict[str, Any] = {"seed": seed, "warn_independent_sampling": False}
    if evenly:
        defaults["random_share"] = 1.0
    if kind is QMCSampler:
        defaults |= {"seed": search.seed, "scramble": True}  # Optuna counts its points in the study
    given = {key: value for key, value in defaults.items() if key in known} | search.sampler_args
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of experimental samplers
            return kind(**given)
    except (TypeError, ValueError, ImportError) as error:
        text = " ".join(str(error).split())
        raise UserError(
            f"search.sampler={search.sampler}: {kind.__name__} refuses search.sampler_args={search.sampler_args}: {text}"
        ) from None


def try_sampler(space: Space, search: Search) -> None:
    """Tries the sampler on the space before anything is trained: a few proposals and their ends.

    Raises UserError, one line, for a sampler that cannot search the space for two objectives.
    """
    build_sampler(search)
    arguments = dict(search.sampler_args)
    if isinstance(arguments.get("n_startup_trials"), int):
        arguments["n_startup_trials"] = min(STARTUP, arguments["n_startup_trials"])
    sampler = build_sampler(search.model_copy(update={"sampler_args": arguments}))
    record = StudyRecord(open_study("try", sampler), space)
    try:
        for number in range(STARTUP + 2):
            trial = record.ask()
            report = Report(fidelity=float(number), memorization=-float(number))
            record.complete(trial, report, {})
    except AmbientSweepError as error:
        raise UserError(f"{str(error).rstrip('.')}; choose another sampler or other sampler_args") from None
