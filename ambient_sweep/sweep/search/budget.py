"""How many images the searched trials may execute, and how long: `search.images` and `search.hours`."""

import math
import time
from collections.abc import Callable, Mapping


class Budget:
    """Spent as trials report what was trained for them; without a limit never.

    `executed`: images by trial, of earlier sessions. `whole`: trials run to their ends once they began, so what they are
    expected to train counts from then on. `seconds`: that the search may still take, from now on.
    """

    def __init__(
        self,
        images: int | None = None,
        executed: Mapping[str, int] | None = None,
        *,
        whole: bool = False,
        seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.images, self._whole, self._clock, self._end = images, whole, clock, clock() + seconds
        self._executed = dict(executed or {})
        self._expected: dict[str, int] = {}  # what is left to train, of the trials that run
        self.executed = sum(self._executed.values())

    def begin(self, trial_id: str, images: int) -> None:
        """A trial begins, or goes on, that has so many images to train."""
        if self._whole:
            self._expected[trial_id] = images

    def report(self, trial_id: str, executed: int) -> None:
        """So many images were trained for a trial until now."""
        new = executed - self._executed.get(trial_id, 0)
        self._executed[trial_id] = executed
        self.executed += new
        if trial_id in self._expected:
            self._expected[trial_id] = max(0, self._expected[trial_id] - new)

    def ended(self, trial_id: str) -> None:
        """A trial trains no more."""
        self._expected.pop(trial_id, None)

    @property
    def seconds_left(self) -> float:
        """Before `search.hours` are over; inf without them."""
        return self._end - self._clock()

    @property
    def spent_by(self) -> str | None:
        """The key by which nothing more may begin."""
        if self.images is not None and self.executed + sum(self._expected.values()) >= self.images:
            return "search.images"
        return "search.hours" if self.seconds_left <= 0 else None

    @property
    def spent(self) -> bool:
        """Whether nothing more may begin."""
        return self.spent_by is not None
