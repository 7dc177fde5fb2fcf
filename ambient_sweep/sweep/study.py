"""Optuna's study of a sweep, in its journal file: opened to read, its distributions, and its sampler by name."""

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from ambient_sweep.errors import UserError
from ambient_sweep.sweep.distributions import Distribution
from ambient_sweep.sweep.journal import StudyJournal, cut_torn_line

OBJECTIVES = ("fidelity", "memorization")  # names in the reported results; both are minimised
LENGTH = "length"  # parameter of every trial of the study: the fraction of the run at which it was evaluated
LENGTH_DISTRIBUTION = FloatDistribution(0.0, 1.0)
LISTING = ("GridSampler", "BruteForceSampler")  # they end a study of Optuna's own loop, and know no length


def optuna_distribution(distribution: Distribution) -> BaseDistribution:
    """The distribution in Optuna's terms."""
    if distribution.kind == "choice":
        return CategoricalDistribution(distribution.values)
    low, high = distribution.values
    if distribution.kind in ("int", "logint"):
        return IntDistribution(low, high, log=distribution.kind == "logint", step=int(distribution.step or 1))
    return FloatDistribution(low, high, log=distribution.kind == "loguniform", step=distribution.step)


def optuna_space(space: Mapping[str, Distribution]) -> dict[str, BaseDistribution]:
    """All that a trial of the study may hold: the searched keys and the length."""
    return {key: optuna_distribution(d) for key, d in space.items()} | {LENGTH: LENGTH_DISTRIBUTION}


def open_study(path: Path, name: str, sampler: BaseSampler | None = None) -> optuna.Study:
    """The study in the journal at `path`, as Optuna reads it; made if it is not there.

    Raises UserError where the file is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        cut_torn_line(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = JournalStorage(JournalFileBackend(str(path)))
            directions = [StudyDirection.MINIMIZE] * len(OBJECTIVES)
            return optuna.create_study(
                storage=storage, study_name=name, sampler=sampler, directions=directions, load_if_exists=True
            )
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore it") from None
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: damaged ({why}); restore it, or start again under another name") from None


def open_journal(path: Path, name: str) -> tuple[StudyJournal, list[optuna.trial.FrozenTrial], dict[str, Any]]:
    """The journal at `path` to append to, the trials that it holds, and the study's user attributes.

    Raises UserError where the file is damaged.
    """
    if not path.exists():
        journal = StudyJournal(path)
        journal.begin(name, len(OBJECTIVES))
        return journal, [], {}
    study = open_study(path, name)
    trials = study.get_trials(deepcopy=False)
    everywhere = sum(len(study._storage.get_all_trials(s._study_id, deepcopy=False)) for s in _studies(study))
    return StudyJournal(path, study._study_id, everywhere), trials, dict(study.user_attrs)


def _studies(study: optuna.Study) -> list[Any]:
    return study._storage.get_all_studies()


def build_sampler(name: str, args: Mapping[str, Any], seed: int, startup: int | None) -> BaseSampler:
    """Optuna's sampler: `nsga2`, `gp`, `tpe`, or any by its name, `optuna:CLASS` or `hub:PACKAGE`.

    Raises UserError for a name that is not known, a package that is not there and arguments that it does not take.
    """
    where = f"search.sampler={name}"
    defaults: dict[str, Any] = {"seed": seed}
    prefix, _, rest = name.partition(":")
    match prefix:
        case "tpe":
            kind: Any = optuna.samplers.TPESampler
            defaults |= {"n_startup_trials": startup or 10, "constant_liar": True}
        case "nsga2":
            kind, defaults = optuna.samplers.NSGAIISampler, defaults | {"population_size": max(2, startup or 50)}
        case "gp":
            kind, defaults = optuna.samplers.GPSampler, defaults | {"n_startup_trials": startup or 10}
        case "optuna":
            kind = _optuna_class(rest, where)
        case "hub":
            kind = _hub_class(rest, where)
        case _:
            raise UserError(f"{where}: is no sampler of Optuna")
    signature = inspect.signature(kind)
    open_ended = any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values())
    given = {key: value for key, value in defaults.items() if key in signature.parameters} | dict(args)
    for key in args:
        if not open_ended and key not in signature.parameters:
            known = ", ".join(signature.parameters)
            raise UserError(f"search.sampler_args: {kind.__name__} takes no {key!r}; it has {known}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.simplefilter("ignore", FutureWarning)
            sampler = kind(**given)
    except (TypeError, ValueError, ImportError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"search.sampler_args: {kind.__name__} refuses {dict(args)}: {text}") from None
    if not isinstance(sampler, BaseSampler):
        raise UserError(f"{where}: is no sampler")
    return sampler


def _optuna_class(name: str, where: str) -> Any:
    kind = getattr(optuna.samplers, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, BaseSampler)) or inspect.isabstract(kind):
        known = sorted(
            n
            for n in optuna.samplers.__all__
            if inspect.isclass(k := getattr(optuna.samplers, n))
            and issubclass(k, BaseSampler)
            and not inspect.isabstract(k)
        )
        raise UserError(f"{where}: optuna.samplers has no such class; it has {', '.join(known)}")
    if name in LISTING:
        raise UserError(f"{where}: lists the space within a loop of Optuna's own; search.sampler=grid lists it here")
    return kind


def _hub_class(package: str, where: str) -> Any:
    try:
        import optunahub  # type: ignore[import-not-found]
    except ImportError:
        raise UserError(
            f"{where}: optunahub is not installed; `pip install optunahub`, or take another sampler"
        ) from None
    try:
        module = optunahub.load_module(f"samplers/{package}")
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{where}: cannot be loaded: {' '.join(str(error).split())}") from None
    kinds = [
        k for k in vars(module).values() if inspect.isclass(k) and issubclass(k, BaseSampler) and k is not BaseSampler
    ]
    named = [k for k in kinds if k.__name__ in getattr(module, "__all__", ())] or kinds
    if len(named) != 1:
        names = ", ".join(k.__name__ for k in named) or "none"
        raise UserError(f"{where}: expected one sampler in the package, found {names}")
    return named[0]
