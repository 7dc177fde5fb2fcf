"""A sampler is tried on a sweep's space before anything is trained: one proposal and its end."""

import itertools

from optuna.samplers import TPESampler

from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.sweep.asking import DRAWN, Space, StudyAsker, Told, check_sampler, random_draws
from ambient_sweep.sweep.definition import Search
from ambient_sweep.sweep.study import build_sampler

MODELLED = 12  # observations after which TPE models, by default


def try_sampler(space: Space, search: Search) -> None:
    """Raises UserError, one line, for what `check_sampler` refuses, and for a sampler that cannot search the space for two
    objectives.

    TPE is told of some observations first: it takes functions, and calls them when it models.
    """
    check_sampler(search)
    if search.sampler in DRAWN:
        return
    sampler = build_sampler(search.sampler, search.sampler_args, search.seed, search.startup_trials)
    asker = StudyAsker(space, sampler, f"search.sampler={search.sampler}")
    count = (search.startup_trials or MODELLED) if isinstance(sampler, TPESampler) else 0
    try:
        for number, values in enumerate(itertools.islice(random_draws(space, search.seed), count)):
            asker.add("", Told(values, "observation", 0.5, (float(number), -float(number))))
        asked = asker.ask("tried")
        asker.end("tried", Told(asked.values, "complete", 1.0, (0.0, 0.0), system=asked.system))
    except AmbientSweepError as error:
        raise UserError(f"{str(error).rstrip('.')}; take another sampler, or other sampler_args") from None
