"""How much a sweep will still train, by its trials' records."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ambient_sweep.sweep.space.definition import Sweep
from ambient_sweep.trial.records import TrialRecord

SLACK = 0.01  # of a training: rungs lie at the end of a step, so far from their level
SURPLUS = 1.25  # early promotions, and the last ones, exceed one in eta: by a fifth to a third in simulated sweeps


@dataclass(frozen=True)
class Forecast:
    """Fixed trials run to their ends. Searched ones are expected to pass from rung to rung as MO-ASHA lets them, and to find
    as much trained by others as those before them did.

    images: of a whole training. fixed, searched: numbers of trials. levels, eta: of the rungs. budget: search.images.
    given: once the search is over, images of the trainings of its confirmation, by id.
    """

    images: int
    fixed: int
    searched: int
    levels: Sequence[float] = ()
    eta: int = 2
    budget: int | None = None
    given: Mapping[str, int] | None = None

    @classmethod
    def of(cls, sweep: Sweep) -> "Forecast":
        """Of a sweep as its file says."""
        search, fixed, searched = sweep.search, len(sweep.fixed_trials()), int(min(sweep.trials, sweep.size()))
        return cls(sweep.some_config().length, fixed, searched, sweep.rung_levels, search.stopping.eta, search.images)

    def confirming(self, given: Mapping[str, int]) -> "Forecast":
        """Once the search is over and these trainings are left."""
        return replace(self, searched=0, budget=None, given=given)

    def trials(self, trials: Collection[TrialRecord]) -> int:
        """How many trials there will be, where these are."""
        if self.given is None:
            return self.fixed + self.searched + sum(trial.role == "replicate" for trial in trials)
        return len({trial.trial_id for trial in trials} | self.given.keys())

    def images_left(self, trials: Collection[TrialRecord]) -> float:
        """Images that will still be trained, where trials stand as their records say."""
        searched = [trial for trial in trials if trial.role == "search"]
        others = {trial.trial_id: trial for trial in trials if trial.role != "search"}
        left: float = sum(map(_left, others.values())) + self.images * max(0, self.fixed - len(others))
        left += sum(images for trial_id, images in (self.given or {}).items() if trial_id not in others)
        executed, done = executed_images(searched), sum(trial.images_done for trial in searched)
        if self.budget is not None:
            most = self.images * max(0, self.searched - len(searched)) + sum(map(_left, searched))
            return left + max(0.0, min(self.budget - executed, most))
        return left + self._search_left(searched) * (executed / done if done else 1.0)

    def _search_left(self, searched: Sequence[TrialRecord]) -> float:
        """From rung to rung: what trials have to the next one, and those that are expected to pass and have not yet."""
        left = 0.0
        bounds = [self.images * level for level in (0.0, *self.levels, 1.0)]
        for rung, (low, high) in enumerate(itertools.pairwise(bounds)):
            passing = self.searched * (min(1.0, SURPLUS / self.eta**rung) if rung else 1.0)
            passed = [trial for trial in searched if trial.images_done > low + SLACK * self.images or not rung]
            left += sum(min(high - trial.images_done, _left(trial)) for trial in passed if trial.images_done < high)
            left += max(0.0, passing - len(passed)) * (high - low)
        return left


def executed_images(trials: Iterable[TrialRecord]) -> int:
    """Images trained so far."""
    return sum(trial.images_executed for trial in trials)


def _left(trial: TrialRecord) -> int:
    """`resume` goes on with a trial whose worker failed, and this session does not."""
    return 0 if trial.ended or trial.status == "failed" else trial.images_asked - trial.images_done
