"""Optuna's study of a sweep: sampler, distributions and the journal file that holds it."""

import random
import warnings
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from ambient_sweep.errors import UserError
from ambient_sweep.sweep.space import Distribution, Search

OBJECTIVES = ("fidelity", "memorization")  # names in the reported results; both are minimised


def build_sampler(search: Search, concurrent: int = 1, seen: int = 0) -> BaseSampler:
    """Optuna's sampler. `seen` trials of earlier sessions move the seed on, so that a resumed sweep does not repeat its
    draws. (QMC counts in the study itself, and needs its seed unchanged.)"""
    seed = search.seed if seen == 0 or search.sampler == "qmc" else _moved_seed(search.seed, seen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match search.sampler:
            case "tpe":
                # Running trials count as bad, so that trials side by side are not the same one.
                return TPESampler(seed=seed, n_startup_trials=search.startup_trials or 10, constant_liar=concurrent > 1)
            case "nsga2":
                return NSGAIISampler(seed=seed, population_size=max(2, search.startup_trials or 50))
            case "qmc":
                return QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
            case "random":
                return RandomSampler(seed=seed)


def _moved_seed(seed: int, seen: int) -> int:
    return random.Random(f"{seed}/{seen}").getrandbits(31)


def optuna_distribution(distribution: Distribution) -> BaseDistribution:
    """The distribution in Optuna's terms."""
    if distribution.kind == "choice":
        return CategoricalDistribution(distribution.values)
    low, high = distribution.values
    if distribution.kind in ("int", "logint"):
        return IntDistribution(low, high, log=distribution.kind == "logint")
    return FloatDistribution(low, high, log=distribution.kind == "loguniform")


def open_study(path: Path, name: str, sampler: BaseSampler) -> optuna.Study:
    """The study in the journal at `path`, made if it is not there. Raises UserError where the file is damaged."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _cut_torn_line(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = JournalStorage(JournalFileBackend(str(path)))
            directions = [StudyDirection.MINIMIZE] * len(OBJECTIVES)
            return optuna.create_study(
                storage=storage, study_name=name, sampler=sampler, directions=directions, load_if_exists=True
            )
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: damaged ({error}); restore it, or start again under another name") from None


def _cut_torn_line(path: Path) -> None:
    """A machine that died while writing leaves half a line at the end; Optuna would refuse the whole file."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with path.open("r+b") as file:
                file.truncate(whole)
