"""What a trial reports while it trains, and at its end."""

import math
from dataclasses import dataclass
from typing import Literal

from ambient_sweep.trial.records import EvaluationRecord, TrialRecord


@dataclass(frozen=True)
class Report:
    """One full evaluation at the main endpoint; or, where `ending` is given, how the trial ended.

    Objectives are NaN where they are not known; what constraints may bound is None where it is not.
    """

    images: int = 0
    fraction: float = 0.0
    fidelity: float = math.nan
    memorization: float = math.nan
    images_left: int = 0
    teacher: bool = False  # of a generator that does not exist yet: no rung compares it, no sampler learns from it
    images_executed: int | None = None
    parameters: int | None = None
    device_seconds: float | None = None
    ending: Literal["completed", "failed"] | None = None
    reason: str | None = None  # of a failure

    @property
    def objectives(self) -> tuple[float, float]:
        return self.fidelity, self.memorization

    @property
    def finite(self) -> bool:
        return math.isfinite(self.fidelity) and math.isfinite(self.memorization)

    @classmethod
    def of(cls, evaluation: EvaluationRecord, trial: TrialRecord) -> "Report":
        """The report of one evaluation."""
        fidelity, memorization = objectives(evaluation)
        distilled = trial.config.get("objective.kind") == "ambient_distilled"
        left = trial.images_asked - evaluation.images
        return cls(
            images=evaluation.images,
            fraction=evaluation.fraction,
            fidelity=fidelity,
            memorization=memorization,
            images_left=left,
            teacher=distilled and evaluation.endpoint != "distilled" and left > 0,
            images_executed=trial.images_executed,
            parameters=trial.parameters,
            device_seconds=trial.device_seconds,
        )


def objectives(evaluation: EvaluationRecord) -> tuple[float, float]:
    """Fidelity and memorization of one evaluation."""
    measures = evaluation.measures
    return measures[evaluation.fidelity].value, measures[evaluation.memorization].value
