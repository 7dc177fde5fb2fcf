"""Rules around Optuna's `ask`: no config twice, none that cannot be trained, siblings, and the cheapest first."""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ambient_sweep.errors import UserError
from ambient_sweep.stages.keys import prefix_of
from ambient_sweep.stages.planner import Planner
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.search.samplers import GRID
from ambient_sweep.sweep.search.study import TRIED, StudyRecord, violations
from ambient_sweep.sweep.space import conditions
from ambient_sweep.sweep.space.definition import Sweep, SweepTrial

LISTED = 4096  # spaces of up to this size are listed to find a config that was not tried
REPEATS = 5  # proposals in a row that were tried already, before a config is drawn that was not
REFUSALS = 200  # proposals in a row that are refused, before the search gives up
LOOKAHEAD = 2  # proposals among which the cheapest to train is taken, with stages
MOST_HELD = 8  # proposals held while what they share is being trained
PATIENCE = 8  # times that a proposal is passed over, at most
SINGLE, DRAWS = 64, 4  # proposals that may yet get a sibling; draws of each key for one
Values = Mapping[str, Any]
Mark = tuple[tuple[str, Any], ...]


class Proposals:
    """Configs to train next.

    Where trials share, the planner decides, by its `cost` (images still to train) and `busy` (whether what a config shares
    with others is being trained now): of a few proposals the cheapest that is not busy is taken; others are held. Before
    them come siblings: configs that are the same training as an earlier one and differ in how they are measured alone cost
    no training; each proposal gets one, once it has trained. `cost` raises UserError for a config whose settings contradict
    each other; `parameters` counts a config's weights, for a bound on them.
    """

    def __init__(
        self, sweep: Sweep, record: StudyRecord, planner: Planner, parameters: Callable[[Values], int]
    ) -> None:
        self._sweep, self._record, self._parameters = sweep, record, parameters
        self._cost, self._busy, self._share = planner.cost, planner.busy, planner.shares
        self._size = sweep.size()
        self._taken: set[Mark] = set()
        self._held: dict[int, SweepTrial] = {}  # proposals that wait, by number
        self._passed: Counter[int | None] = Counter()  # how often another was taken before them
        self._single: deque[tuple[dict[str, Any], int]] = deque(maxlen=SINGLE)  # without a sibling, and their cost then
        self._grid = conditions.configs(sweep.space) if sweep.search.sampler == GRID else None
        self._given: deque[tuple[Values, Values]] = deque()  # values, and the attributes of their trials
        self._drawn = 0  # since the last new config
        self._refusal, self._allowed_any = "", False
        self.gave_up = ""  # why no more come, where the space may hold some

    @property
    def left(self) -> bool:
        """Whether there may be another proposal."""
        return bool(self._held or self._given) or (not self.gave_up and len(self._taken) < self._size)

    def remember(self, values: Values) -> None:
        """A config of an earlier session is not proposed again."""
        self._taken.add(mark(values))
        self._allowed_any = True

    def give(self, values: Values, attributes: Values) -> None:
        """Values from elsewhere, which go first: a point of the sweep file, or a proposal of an earlier session."""
        self._given.append((values, attributes))

    def drop_held(self) -> None:
        """Ends the proposals that nobody will train, since the search is over; they may be proposed again."""
        for number, trial in self._held.items():
            self._record.drop(number)
            self._taken.discard(mark(trial.values))
        self._held.clear()

    def next(self, *, waiting_helps: bool) -> SweepTrial | None:
        """The next config to train; None where there is none now. waiting_helps: trials are running, so what is busy will
        be free. Raises AmbientSweepError for what the sampler raises."""
        if (given := self._next_given()) is not None:
            return self._chosen(given)
        if self._share and (sibling := self._sibling()) is not None:
            return sibling
        wanted = LOOKAHEAD if self._share else 1
        more = self._hold_up_to(wanted)
        while (chosen := self._cheapest(waiting_helps)) is None:
            if not more or len(self._held) >= MOST_HELD:
                return None
            more = self._hold_up_to(len(self._held) + 1)
        return self._chosen(chosen)

    def _next_given(self) -> SweepTrial | None:
        while self._given:
            values, attributes = self._given.popleft()
            for _ in range(REPEATS):  # keys that a point leaves open are drawn anew
                trial = self._record.propose(values, attributes)
                if not self._new(trial.values):
                    self._record.fail(trial, TRIED)
                elif self._trainable(trial):
                    return trial
                if trial.values.keys() == values.keys():
                    break
        return None

    def _chosen(self, trial: SweepTrial) -> SweepTrial:
        assert trial.number is not None
        self._held.pop(trial.number, None)
        self._passed.update(self._held.keys())
        if self._share:
            self._single.append((trial.values, self._cost(trial.values)))
        return trial

    def _cheapest(self, waiting_helps: bool) -> SweepTrial | None:
        held = list(self._held.values())
        free = [trial for trial in held if not self._busy(trial.values)]
        if not free:
            return None if waiting_helps or not held else held[0]
        oldest = free[0]
        if self._passed[oldest.number] >= PATIENCE:
            return oldest
        return min(free, key=lambda trial: self._cost(trial.values))

    def _hold_up_to(self, wanted: int) -> bool:
        """Whether so many are held now."""
        while len(self._held) < wanted:
            trial = self._fresh()
            if trial is None or trial.number is None:
                return False
            self._held[trial.number] = trial
        return True

    # -- siblings -----------------------------------------------------------------------------------------------------

    def _sibling(self) -> SweepTrial | None:
        """A new config whose training is that of an earlier proposal, as far as that has come."""
        for entry in reversed(list(self._single)):
            values, cost = entry
            if self._cost(values) >= cost or self._busy(values):
                continue
            self._single.remove(entry)
            for changed in self._same_training(values):
                if self._cost(changed) <= self._cost(values) and self._new(changed):
                    return self._record.propose(changed)
        return None

    def _same_training(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Configs of the same training that differ from `values` in one key, a few for each key."""
        training, space = prefix_of(self._sweep.config_for(values)), self._sweep.space
        for key in values:
            for _ in range(DRAWS):
                changed = {**values, key: self._drawn_evenly(key)}
                whole = {k for k, d in space.items() if conditions.is_active(d, changed)} == set(changed)
                if changed[key] == values[key] or not whole:
                    continue
                try:
                    same = prefix_of(self._sweep.config_for(changed)) == training
                except UserError:
                    continue
                if not same:
                    break
                yield changed

    # -- proposals ----------------------------------------------------------------------------------------------------

    def _fresh(self) -> SweepTrial | None:
        """A proposal that is new and can be trained."""
        listable = self._grid is not None or self._size <= LISTED  # such a search ends when all configs were tried
        in_a_row = 0
        while not self.gave_up and (trial := self._untried()) is not None:
            if self._trainable(trial):
                return trial
            in_a_row += 1
            if in_a_row == REFUSALS and not listable:
                self._give_up(f"{REFUSALS} configs in a row")
        if not self.gave_up and self._refusal and not self._allowed_any:
            self._give_up("all configs of the space")
        return None

    def _give_up(self, what: str) -> None:
        self.gave_up = (
            f"search: {what} were refused, the last one: {self._refusal}; narrow the space or raise the bound"
        )

    def _untried(self) -> SweepTrial | None:
        if len(self._taken) >= self._size:
            return None
        for _ in range(REPEATS if self._grid is None else 0):
            trial = self._record.ask()
            if self._new(trial.values):
                return trial
            self._record.fail(trial, TRIED)
        trial = self._record.propose(self._untried_values())
        self._new(trial.values)
        return trial

    def _untried_values(self) -> dict[str, Any]:
        space = self._sweep.space
        if self._grid is not None:
            return next(values for values in self._grid if mark(values) not in self._taken)
        if self._size <= LISTED:
            return self._rng().choice([v for v in conditions.configs(space) if mark(v) not in self._taken])
        while True:
            values = self._sweep.active({key: self._drawn_evenly(key) for key in space})
            if mark(values) not in self._taken:
                return values

    def _trainable(self, trial: SweepTrial) -> bool:
        """Whether nothing speaks against a proposal; else it is refused, and `_refusal` says why."""
        bound, over = self._sweep.search.constraints.get("parameters"), dict[str, float]()
        try:
            self._cost(trial.values)
            if bound is not None and (count := self._parameters(trial.values)) > bound:
                over = violations({"parameters": bound}, Report(parameters=count))
                raise UserError(f"parameters {count:,} exceed search.constraints.parameters={bound:g}")
        except UserError as error:
            self._refusal = str(error).removeprefix(f"{self._sweep.name}: ")
            self._record.fail(trial, self._refusal, over)
            return False
        self._allowed_any = True
        return True

    def _new(self, values: Values) -> bool:
        marked = mark(values)
        if marked in self._taken:
            return False
        self._taken.add(marked)
        self._drawn = 0
        return True

    def _drawn_evenly(self, key: str) -> Any:
        return self._record.draw_evenly(key, self._rng().random())

    def _rng(self) -> random.Random:
        self._drawn += 1
        return random.Random(f"{self._sweep.search.seed}/proposal/{len(self._taken)}/{self._drawn}")


def mark(values: Values) -> Mark:
    """Values as a key; true and 1 are two."""
    return tuple(sorted((key, (type(value).__name__, value)) for key, value in values.items()))
