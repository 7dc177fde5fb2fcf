"""What the search asks of stages, and tells them: `stages.planner` does this."""

from collections.abc import Mapping
from typing import Any, Protocol

Values = Mapping[str, Any]


class Planner(Protocol):
    """What configs have in common, and which of it is trained."""

    def cost(self, values: Values) -> int:
        """Images still to train."""

    def busy(self, values: Values) -> bool:
        """Whether what a config shares with another is being trained now."""

    def started(self, trial_id: str, values: Values) -> object:
        """A trial begins or goes on."""

    def reached(self, trial_id: str, images: int) -> None:
        """A running trial was evaluated."""

    def ended(self, trial_id: str) -> None:
        """A trial is over, or pauses."""
